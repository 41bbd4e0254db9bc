"""On the Score tab: the weights of a merge beside its parents', as heat maps, with a doctor's verdict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from evaluation import EvaluationError, FetchedModel, fetch_model, load_fetched
from evaluation.activations import Likeness, likeness
from evaluation.weights import PLACES, TensorLook, WeightsLook, look, open_weights
from ui.host import Host
from ui.hub.account import account
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import in_each_language, t
from ui.recipe.presets import family
from ui.score.panel import Panel, go_and_stop, names_in
from ui.server import gpu
from ui.server.internal_error import log_unexpected
from ui.server.work import watched
from ui.widgets.events import LONG, QUIET
from ui.widgets.heat_map import heat_map
from ui.widgets.html import card, heading, html, note, status, tag

# Entries of a tensor that are read, and from how many places: each place is a request to the Hub.
QUICK, SLOW, ALL = "quick", "slow", "all"
SAMPLES: dict[str, tuple[int | None, int]] = {QUICK: (1 << 16, 4), SLOW: (1 << 20, PLACES), ALL: (None, 1)}
READERS = 8
ACTIVATION_TOKENS = 512


@dataclass(frozen=True)
class Signal:
    """A figure of every tensor that can be drawn.

    Args:
        against: what it holds the model against: nothing, a parent, or two parents against each other
        value: None where it is not known
    """

    against: str
    value: Callable[[TensorLook, str], float | None]


def _of_parent(figure: str) -> Signal:
    def value(tensor: TensorLook, parent: str) -> float | None:
        found: float | None = getattr(tensor.against[parent], figure) if parent in tensor.against else None
        return found

    return Signal("parent", value)


def _of_pair(figure: str) -> Signal:
    def value(tensor: TensorLook, pair: str) -> float | None:
        found: float | None = getattr(tensor.between[pair], figure) if pair in tensor.between else None
        return found

    return Signal("pair", value)


SIGNALS = {
    "change": _of_parent("change"),
    "cosine": _of_parent("cosine"),
    "effective_rank": _of_parent("effective_rank"),
    "energy": _of_parent("energy"),
    "parents_cosine": _of_pair("cosine"),
    "task_cosine": _of_pair("task_cosine"),
    "sign_conflict": _of_pair("sign_conflict"),
    "overlap": _of_pair("overlap"),
    "norm": Signal("", lambda tensor, _: tensor.norm),
    "dead_rows": Signal("", lambda tensor, _: float(tensor.dead_rows) if len(tensor.shape) > 1 else None),
    "spoilt": Signal("", lambda tensor, _: float(tensor.nan + tensor.inf)),
}


@dataclass(frozen=True)
class Looked:
    """What was found in the weights of a model.

    Args:
        names: of the model and its parents, as they were asked for
        found: in its weights
        alike: its states beside those of its parents, if that was asked
    """

    names: tuple[str, ...]
    found: WeightsLook
    alike: tuple[Likeness, ...] = ()

    def against(self, signal: str) -> list[str]:
        """What a signal may be drawn for; one empty name where it needs nothing else, none where it is not known."""
        kind = SIGNALS[signal].against
        if not kind:
            return [""]
        held = "against" if kind == "parent" else "between"
        names = dict.fromkeys(name for tensor in self.found.tensors for name in getattr(tensor, held))
        return [name for name in names if any(row is not None for row in self._row(signal, name))]

    def signals(self) -> list[str]:
        """The signals that are known of this model."""
        return [signal for signal in SIGNALS if self.against(signal)]

    def _row(self, signal: str, name: str) -> Iterator[float | None]:
        return (SIGNALS[signal].value(tensor, name) for tensor in self.found.tensors)

    def picture(self, signal: str, name: str) -> str:
        """One signal over layers and kinds of tensors."""
        rows = self.found.heat_map(lambda tensor: SIGNALS[signal].value(tensor, name))
        return heat_map(_title(signal, name), rows)


def states_alike(
    models: Sequence[FetchedModel], document: str, device: str
) -> Iterator[tuple[Likeness, ...] | None]:
    """Linear CKA of the first model's states with each of the others'; None until they are known."""

    def compare(_: Callable[[Any], None], cancel: threading.Event) -> tuple[Likeness, ...]:
        first = load_fetched(models[0], device)
        return tuple(
            likeness(first, load_fetched(other, device), document, tokens=ACTIVATION_TOKENS)
            for other in models[1:]
            if not cancel.is_set()
        )

    yield from watched(compare)


def weights_panel(host: Host, models: gr.Dropdown, search: HubSearch, document: gr.Textbox) -> Panel:
    """Build the part that looks at weights; `document` is what models read whose states are compared."""
    known = family(host.demo).models
    gr.HTML(in_each_language(lambda: note(t("weights.meaning"))))
    with gr.Accordion(t("weights.more"), open=False):
        base = gr.Dropdown(
            list(known), value=None, label=t("weights.base"), info=t("weights.base.info"), allow_custom_value=True
        )  # fmt: skip
        search_as_you_type(base, search, host, known)
        with gr.Row():
            amount = gr.Radio(
                [(t(f"weights.amount.{key}"), key) for key in SAMPLES], value=QUICK, label=t("weights.amount"),
                min_width=240,
            )  # fmt: skip
            activations = gr.Checkbox(
                False, label=t("weights.activations"), info=t("weights.activations.info"), min_width=240
            )
    go, turns = go_and_stop(t("weights.button"))
    verdict = gr.HTML()
    with gr.Row(visible=False) as choice:
        signal = gr.Dropdown([], label=t("weights.signal"), min_width=240)
        against = gr.Dropdown([], label=t("weights.against"), min_width=240)
    picture = gr.HTML()
    found = gr.State(None)

    def look_at(
        names: list[str], base_name: str | None, how_much: str, run_them: bool, read: str,
        oauth: gr.OAuthToken | None, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        wanted, token = names_in(names), account(host, oauth).for_hub
        sample, places = SAMPLES[how_much]
        hidden = gr.Row(visible=False), gr.skip(), gr.skip(), "", None

        def work(tell: Callable[[tuple[int, int]], None], cancel: threading.Event) -> WeightsLook:
            opened = {
                name: open_weights(name, token=token, allow_folders=host.allow_folders)
                for name in dict.fromkeys([*wanted, *filter(None, [(base_name or "").strip()])])
            }
            first, *others = [opened[name] for name in wanted]
            return look(
                first, others, base=opened.get((base_name or "").strip()), sample=sample, places=places,
                readers=READERS, on_progress=lambda *now: tell(now), cancel=cancel,
            )  # fmt: skip

        yield status(t("weights.opening")), *hidden
        looked: Looked | None = None
        with turns.of(request) as turn:
            try:
                with closing(watched(work)) as looking:
                    for said in looking:
                        if turn.stopped.is_set():
                            yield status(t("score.stopped")), *hidden
                            return
                        if isinstance(said, tuple):
                            yield status(t("weights.reading", done=said[0], total=said[1])), *hidden
                        elif said is not None:
                            looked = Looked(tuple(wanted), said)
                assert looked is not None
                if not (run_them and len(wanted) > 1):
                    yield verdict_card(looked), *_shown(looked)
                    return
                yield verdict_card(looked, [t("weights.activations.working")]), *_shown(looked)
                here = [fetch_model(name, token=token, allow_folders=host.allow_folders) for name in wanted]
                seconds = gpu.seconds_to_answer([model.bytes for model in here], 1)
                with closing(gpu.on_gpu(seconds, states_alike, here, read)) as comparing:
                    for run, alike in comparing:
                        if turn.stopped.is_set():
                            yield verdict_card(looked, [t("score.stopped")]), *_shown(looked)
                            return
                        if alike is not None:
                            looked = replace(looked, alike=alike)
                            where = [t("score.where", where=run.line)] if run.line else []
                            # All of it once more: a slow browser may pass over the piece before.
                            yield verdict_card(looked, where), *_shown(looked)
            except EvaluationError as error:
                raise gr.Error(str(error), print_exception=False) from None
            except gr.Error:
                raise
            except Exception as error:
                message = t("unexpected", error=log_unexpected(error, token or None))
                raise gr.Error(message, print_exception=False) from None

    def choose(now: Looked | None, chosen: str) -> tuple[Any, str]:
        if now is None:
            return gr.skip(), ""
        names = now.against(chosen)
        first = names[0] if names else ""
        return _offered(names), now.picture(chosen, first)

    def draw(now: Looked | None, chosen: str, name: str | None) -> str:
        return now.picture(chosen, name or "") if now else ""

    ended = go.click(
        look_at,
        [models, base, amount, activations, document],
        [verdict, choice, signal, against, picture, found],
        **LONG,
    )
    signal.input(choose, [found, signal], [against, picture], **QUIET)
    against.input(draw, [found, signal, against], picture, **QUIET)
    return Panel(found, ended)


def _shown(looked: Looked) -> tuple[Any, ...]:
    """Updates for the choices, the picture of the first of them, and the state."""
    signals = looked.signals()
    names = looked.against(signals[0])
    return (
        gr.Row(visible=True),
        gr.update(choices=[(t(f"weights.signal.{name}"), name) for name in signals], value=signals[0]),
        _offered(names),
        looked.picture(signals[0], names[0]),
        looked,
    )


def _offered(names: Sequence[str]) -> Any:
    return gr.update(
        choices=[(_name(name), name) for name in names], value=names[0] if names else None,
        visible=names != [""],
    )  # fmt: skip


def _name(name: str) -> str:
    """A parent or a pair of them; of a folder the last part."""
    parts = [Path(part).name if Path(part).is_absolute() else part for part in name.split(" | ")]
    return t("weights.pair").join(parts)


def _title(signal: str, name: str) -> str:
    said = t(f"weights.signal.{signal}")
    return f"{said}: {_name(name)}" if name else said


def verdict_card(looked: Looked, notes: Sequence[str] = ()) -> Markup:
    """What the doctor says, what is the same twice or cannot be compared, and how alike the states are."""
    found = looked.found
    sound = found.sound
    share = min((tensor.share for tensor in found.tensors), default=1.0)
    said = list(found.doctor())
    said += [t("weights.duplicates", names=", ".join(names)) for names in found.duplicates]
    said += [
        t("weights.lacking", model=parent, count=len(names))
        for parent, names in found.lacking.items()
        if names
    ]
    if share < 1:
        said.append(t("weights.share", share=f"{share:.1%}"))
    said += notes
    states = heat_map(
        t("weights.cka", count=min((one.positions for one in looked.alike), default=0)),
        {one.other: one.by_layer for one in looked.alike},
    )
    title = heading(t("weights.sound" if sound else "weights.unsound", model=found.model), 2)
    return html(card([title, map(tag.p, said)], "good" if sound else "bad"), states)

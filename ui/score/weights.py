"""On the Score tab: the weights of a merge beside its parents', as heat maps, with a verdict on their health."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gradio as gr
from markupsafe import Markup

from evaluation import EvaluationError, FetchedModel, fetch_model, load_fetched
from evaluation.cka import LinearCka, linear_cka
from evaluation.tensor_stats import TensorStats
from evaluation.weights import PLACES, WeightsReport, inspect_weights, open_weights
from ui.host import Host
from ui.hub.account import account
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import error_words, in_each_language, remark_words, t
from ui.recipe.presets import family
from ui.score.panel import go_and_stop, names_in, where
from ui.server import gpu
from ui.server.internal_error import log_unexpected
from ui.server.model_process import MODELS
from ui.server.work import Turn, watched
from ui.widgets.events import LONG, QUIET, Given, Updates
from ui.widgets.heat_map import heat_map
from ui.widgets.html import card, heading, html, note, status, tag
from ui.widgets.stop_button import stops_until

# Entries of a tensor that are read, and from how many places: each place is a request to the Hub.
QUICK, SLOW, ALL = "quick", "slow", "all"
SAMPLES: dict[str, tuple[int | None, int]] = {QUICK: (1 << 16, 4), SLOW: (1 << 20, PLACES), ALL: (None, 1)}
READERS = 8
Token: TypeAlias = str | Literal[False]
ACTIVATION_TOKENS = 512


@dataclass(frozen=True)
class Signal:
    """A figure of every tensor that can be drawn.

    Args:
        against: what the model is compared with: "" for nothing, "parent", or "pair" for two parents with each other
        value: of a tensor, and the parent or pair; None where it is not known
    """

    against: str
    value: Callable[[TensorStats, str], float | None]


def _of_parent(figure: str) -> Signal:
    def value(tensor: TensorStats, parent: str) -> float | None:
        found: float | None = getattr(tensor.against[parent], figure) if parent in tensor.against else None
        return found

    return Signal("parent", value)


def _of_pair(figure: str) -> Signal:
    def value(tensor: TensorStats, pair: str) -> float | None:
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
        alike: its states compared with those of its parents, if that was asked for
    """

    names: tuple[str, ...]
    found: WeightsReport
    alike: tuple[LinearCka, ...] = ()

    def against(self, signal: str) -> list[str]:
        """The parents or pairs that a signal can be drawn for: one empty name if it needs none, no name if unknown."""
        kind = SIGNALS[signal].against
        if not kind:
            return [""]
        held = "against" if kind == "parent" else "between"
        names = dict.fromkeys(name for tensor in self.found.tensors for name in getattr(tensor, held))
        return [name for name in names if any(row is not None for row in self._row(signal, name))]

    def signals(self) -> list[str]:
        """The signals that are known for this model."""
        return [signal for signal in SIGNALS if self.against(signal)]

    def _row(self, signal: str, name: str) -> Iterator[float | None]:
        return (SIGNALS[signal].value(tensor, name) for tensor in self.found.tensors)

    def picture(self, signal: str, name: str) -> str:
        """One signal over layers and kinds of tensors."""
        rows = self.found.heat_map(lambda tensor: SIGNALS[signal].value(tensor, name))
        return heat_map(_title(signal, name), rows)


def states_alike(
    models: Sequence[FetchedModel], document: str, device: str
) -> Iterator[tuple[LinearCka, ...] | None]:
    """Linear CKA of the first model's states with those of each other model; None until it is known."""

    def compare(_: Callable[[Any], None], cancel: threading.Event) -> tuple[LinearCka, ...]:
        first = load_fetched(models[0], device)
        return tuple(
            linear_cka(first, load_fetched(other, device), document, tokens=ACTIVATION_TOKENS)
            for other in models[1:]
            if not cancel.is_set()
        )

    yield from watched(compare)


def inspected(
    names: Sequence[str], base: str, sample: int | None, places: int, token: Token, allow_folders: bool
) -> Iterator[tuple[int, int] | WeightsReport | None]:
    """Inspect the weights of the first model beside those of the others; yields how many are done, and the report.

    Args:
        names: of models
        base: what they were fine-tuned from; empty for none
        sample, places: see `inspect_weights`
        token, allow_folders: see `open_weights`
    """

    def inspect(report: Callable[[tuple[int, int]], None], cancel: threading.Event) -> WeightsReport:
        opened = {
            name: open_weights(name, token=token, allow_folders=allow_folders)
            for name in dict.fromkeys([*names, *filter(None, [base])])
        }
        first, *others = [opened[name] for name in names]
        return inspect_weights(
            first, others, base=opened.get(base), sample=sample, places=places, readers=READERS,
            on_progress=lambda *now: report(now), cancel=cancel,
        )  # fmt: skip

    return watched(inspect)


class WeightsPanel:
    """Inspects weights; made inside the page's Blocks. A `Panel` that finds a `Looked`."""

    def __init__(self, host: Host, models: gr.Dropdown, search: HubSearch, document: gr.Textbox) -> None:
        """`document` is the text that models read whose states are compared."""
        self.host, self.models, self.document = host, models, document
        gr.HTML(in_each_language(lambda: note(t("weights.meaning"))))
        self._fields(search)
        go, stop, self.turns = go_and_stop(t("weights.button"))
        self.verdict = gr.HTML()
        with gr.Row(visible=False) as self.choice:
            self.signal = gr.Dropdown([], label=t("weights.signal"), min_width=240)
            self.against = gr.Dropdown([], label=t("weights.against"), min_width=240)
        self.picture, self.found = gr.HTML(), gr.State(None)
        self.ended = go.click(
            self._look,
            {models, self.base, self.amount, self.activations, document},
            [self.verdict, self.choice, self.signal, self.against, self.picture, self.found],
            **LONG,
        )
        stops_until(stop, self.ended)
        self.signal.input(self._choose, [self.found, self.signal], [self.against, self.picture], **QUIET)
        self.against.input(self._draw, [self.found, self.signal, self.against], self.picture, **QUIET)

    def _fields(self, search: HubSearch) -> None:
        known = family(self.host.demo).models
        with gr.Accordion(t("weights.more"), open=False):
            self.base = gr.Dropdown(
                list(known), value=None, label=t("weights.base"), info=t("weights.base.info"), allow_custom_value=True
            )  # fmt: skip
            search_as_you_type(self.base, search, self.host, known)
            self.amount = gr.Radio(
                [(t(f"weights.amount.{key}"), key) for key in SAMPLES], value=QUICK, label=t("weights.amount")
            )
            self.activations = gr.Checkbox(
                False, label=t("weights.activations"), info=t("weights.activations.info")
            )

    def _look(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        names, token = names_in(given[self.models]), account(self.host, oauth).for_hub
        yield self._waiting(t("weights.opening"))
        with self.turns.of(request) as turn:
            try:
                found = yield from self._inspected(names, given, token, turn)
                if found is None:
                    return
                looked = Looked(tuple(names), found)
                if given[self.activations] and len(names) > 1:
                    yield from self._compared(looked, given[self.document], token, turn)
                else:
                    yield self._shown(looked)
            except EvaluationError as error:
                raise gr.Error(error_words(error), print_exception=False) from None
            except gr.Error:
                raise
            except Exception as error:
                message = t("unexpected", error=log_unexpected(error, token or None))
                raise gr.Error(message, print_exception=False) from None

    def _inspected(
        self, names: Sequence[str], given: Given, token: Token, turn: Turn
    ) -> Generator[Updates, None, WeightsReport | None]:
        """What is in the weights; None if the visitor stopped it.

        Raises:
            EvaluationError: a model cannot be read
        """
        base = (given[self.base] or "").strip()
        sample, places = SAMPLES[given[self.amount]]

        asked = (names, base, sample, places, token, self.host.allow_folders)
        found: WeightsReport | None = None
        with closing(MODELS.stream(inspected, *asked)) as looking:
            for news in looking:
                if turn.stopped.is_set():
                    yield self._waiting(t("score.stopped"))
                    return None
                if isinstance(news, tuple):
                    yield self._waiting(t("weights.reading", done=news[0], total=news[1]))
                elif news is not None:
                    found = news
        return found

    def _compared(self, looked: Looked, document: str, token: Token, turn: Turn) -> Iterator[Updates]:
        """What was found, and then the states of the models beside it.

        Raises:
            EvaluationError: a model cannot be fetched
            gr.Error: a model cannot run
        """
        yield self._shown(looked, [t("weights.activations.working")])
        models = [
            fetch_model(name, token=token, allow_folders=self.host.allow_folders) for name in looked.names
        ]
        seconds = gpu.seconds_to_answer([model.bytes for model in models], 1)
        with closing(gpu.on_gpu(seconds, states_alike, models, document)) as comparing:
            for run, alike in comparing:
                if turn.stopped.is_set():
                    yield self._shown(looked, [t("score.stopped")])
                    return
                if alike is not None:
                    yield self._shown(replace(looked, alike=alike), where(run))

    def _waiting(self, line: str) -> Updates:
        return {
            self.verdict: status(line), self.choice: gr.Row(visible=False), self.picture: "", self.found: None,
        }  # fmt: skip

    def _shown(self, looked: Looked, notes: Sequence[str] = ()) -> Updates:
        """All of it each time: a slow browser may skip an earlier piece."""
        signals = looked.signals()
        names = looked.against(signals[0])
        choices = [(t(f"weights.signal.{name}"), name) for name in signals]
        return {
            self.verdict: verdict_card(looked, notes),
            self.choice: gr.Row(visible=True),
            self.signal: gr.update(choices=choices, value=signals[0]),
            self.against: _offered(names),
            self.picture: looked.picture(signals[0], names[0]),
            self.found: looked,
        }

    def _choose(self, looked: Looked | None, signal: str) -> Updates:
        if looked is None:
            return {self.picture: ""}
        names = looked.against(signal)
        return {
            self.against: _offered(names),
            self.picture: looked.picture(signal, names[0] if names else ""),
        }

    def _draw(self, looked: Looked | None, signal: str, name: str | None) -> str:
        return looked.picture(signal, name or "") if looked else ""


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
    """The verdict, duplicates, tensors that could not be compared, and how alike the states are."""
    found = looked.found
    sound = found.sound
    share = min((tensor.share for tensor in found.tensors), default=1.0)
    said = list(map(remark_words, found.remarks))
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
    kind = "weights.unsound" if not sound else "weights.sound" if share == 1 else "weights.sound.so_far"
    title = heading(t(kind, model=found.model), 2)
    return html(card([title, map(tag.p, said)], "good" if sound else "bad"), states)

"""The models that the Score tab judges: named by the visitor, brought to this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gradio as gr
from gradio.events import Dependency
from markupsafe import Markup

from evaluation import EvaluationError, FetchedModel, fetch_model
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import t
from ui.server import gpu
from ui.server.internal_error import log_unexpected
from ui.server.work import Turns
from ui.widgets.events import QUIET
from ui.widgets.html import bar, table_row, tag

MOST_MODELS = 6


@dataclass
class Panel:
    """A part of the tab that finds something out, for the other parts.

    Args:
        found: a state with what was found last, or None
        ended: the event after which it is there
    """

    found: gr.State
    ended: Dependency


def go_and_stop(label: str, **looks: Any) -> tuple[gr.Button, Turns]:
    """The row of buttons that begins a panel's work and ends it; `looks` are the first one's.

    Returns:
        The first button, and the turns that the work has to take, which the second one stops.
    """
    with gr.Row():
        go = gr.Button(label, scale=3, **looks)
        stop = gr.Button(t("score.stop"), scale=1, min_width=90)
    turns = Turns()
    stop.click(turns.stop, None, None, **QUIET)
    return go, turns


@dataclass(frozen=True)
class Unavailable:
    """A model that could not be brought here, and why."""

    name: str
    trouble: str


class Begun(Protocol):
    """A model's row in a table that fills."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do for it."""


def in_turn(
    models: Sequence[FetchedModel | Unavailable], rows: Sequence[Begun], seconds: int | None, device: str
) -> Iterator[tuple[int, FetchedModel, gpu.Call]]:
    """The models that one call has time for and whose rows have not ended, each with its number.

    Args:
        models: that are on this machine, or why one is not
        rows: as they stand when a model's turn comes
        seconds: that were asked for; None for no end
        device: the processor, which is no part of the quota, goes on to the end
    """
    call = gpu.Call(None if device == "cpu" else seconds)
    for number, model in enumerate(models):
        if rows[number].ended or isinstance(model, Unavailable):
            continue
        if not call.begins(model.bytes):
            return
        yield number, model, call


def names_in(field: Sequence[str] | None) -> list[str]:
    """The models that the field names, each once.

    Raises:
        gr.Error: none, or too many.
    """
    wanted = list(dict.fromkeys(name.strip() for name in field or () if name.strip()))
    if not wanted:
        raise gr.Error(t("score.no_models"), print_exception=False)
    if len(wanted) > MOST_MODELS:
        raise gr.Error(t("score.too_many", most=MOST_MODELS), print_exception=False)
    return wanted


def fetched(
    names: Sequence[str], token: str | Literal[False], allow_folders: bool
) -> list[FetchedModel | Unavailable]:
    """The models, brought to this machine, as far as they can be had."""
    found: list[FetchedModel | Unavailable] = []
    for name in names:
        try:
            model = fetch_model(name, token=token, allow_folders=allow_folders)
            _ = model.bytes  # which asks whether its files can be read
            found.append(model)
        except EvaluationError as error:
            found.append(Unavailable(name, str(error)))
        except Exception as error:
            found.append(Unavailable(name, t("unexpected", error=log_unexpected(error, token or None))))
    return found


def bytes_to_load(models: Sequence[FetchedModel | Unavailable], ended: Sequence[bool]) -> list[int]:
    """The weights of each model that there is still work for."""
    return [
        model.bytes
        for model, done in zip(models, ended, strict=True)
        if isinstance(model, FetchedModel) and not done
    ]


def waiting_row(name: str, columns: int, trouble: str, done: int, total: int) -> Markup:
    """A model's row in a table before its figures are known.

    Args:
        name: of the model
        columns: for figures
        trouble: why there will be none; empty if there may be
        done: questions that are answered
        total: questions in all, 0 before it began
    """
    if trouble:
        return table_row(name, tag.td(f"{t('score.failed')}: {trouble}", colspan=columns))
    if not total:
        return table_row(name, tag.td(t("score.waiting"), colspan=columns, class_="alloy-quiet"))
    answered = t("benchmark.answered", done=done, total=total)
    state = [answered, bar(round(100 * done / total), name)]
    return table_row(name, tag.td(state, colspan=columns, class_="alloy-quiet"))


def ready_for_gpu(host: Host) -> Callable[..., None]:
    """What a button does first on ZeroGPU: fetch the models before the GPU is asked for, as the Chat tab does."""

    def fetch(names: list[str], oauth: gr.OAuthToken | None) -> None:
        if gpu.is_zero_gpu():
            fetched(names_in(names), account(host, oauth).for_hub, host.allow_folders)

    return fetch

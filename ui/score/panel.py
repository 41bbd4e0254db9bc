"""What the panels of the Score tab share: models fetched by name, and work on them in as many GPU calls as it takes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import gradio as gr
from gradio.events import Dependency
from markupsafe import Markup

from evaluation import Cancelled, EvaluationError, FetchedModel, fetch_model
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import error_words, t
from ui.server import gpu
from ui.server.internal_error import log_unexpected
from ui.server.work import Turn, Turns, Work, watched
from ui.widgets.events import QUIET
from ui.widgets.html import bar, folded, table_row, tag
from ui.widgets.stop_button import stop_button, stops_from

MAX_MODELS = 6


class Panel(Protocol):
    """A part of the tab that finds something out.

    Attributes:
        found: a state with what was found last, or None
        ended: the event after which it is there
    """

    found: gr.State
    ended: Dependency


def go_and_stop(label: str, **looks: Any) -> tuple[gr.Button, gr.Button, Turns]:
    """The row of buttons that start and stop a panel's work; `looks` are for the first.

    Returns:
        The two buttons, see `stops_until`, and the turns that the work has to take, which the second one stops.
    """
    with gr.Row():
        go = gr.Button(label, scale=3, **looks)
        stop = stop_button(t("score.stop"), scale=1, min_width=90)
    turns = Turns()
    stops_from(stop, [go.click])
    stop.click(turns.stop, None, None, **QUIET)
    return go, stop, turns


@dataclass(frozen=True)
class Unavailable:
    """A model that could not be fetched, and why."""

    name: str
    trouble: str


@dataclass(frozen=True)
class ModelRow:
    """A model's row in a table that fills.

    Args:
        name: of the model
        trouble: why it has no figures, or not all of them
    """

    name: str
    trouble: str = field(default="", kw_only=True)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return bool(self.trouble)


AnyRow = TypeVar("AnyRow", bound=ModelRow)


def in_calls(
    models: Sequence[FetchedModel | Unavailable],
    rows: Sequence[AnyRow],
    work: Callable[..., Iterator[list[AnyRow]]],
    *arguments: Any,
    characters: int | None = None,
    turn: Turn | None = None,
) -> Generator[tuple[gpu.GpuRun, list[AnyRow]], None, None]:
    """Fill the rows: on a GPU where there is one, in as many calls as it takes.

    Args:
        models: on this machine, or why one is not
        rows: a row for each model
        work: one call, given the models, the arguments, the rows, the call's seconds (None: no limit) and the device
        characters: that each model reads, where the work is to read a text
        turn: when it is stopped, the work ends and the remaining rows say so
    """
    while not all(row.ended for row in rows):
        seconds = gpu.seconds_of_a_call(_bytes_to_load(models, rows), characters)
        limit = seconds if gpu.is_zero_gpu() else None
        with closing(gpu.on_gpu(seconds, work, models, *arguments, rows, limit)) as stream:
            for run, now in stream:
                rows = now
                if turn and turn.stopped.is_set():
                    stopped = t("score.stopped")
                    yield run, [row if row.ended else replace(row, trouble=stopped) for row in now]
                    return
                yield run, now


def asked_in_turn(
    host: Host,
    turns: Turns,
    names: Sequence[str],
    row: Callable[..., AnyRow],
    work: Callable[..., Iterator[list[AnyRow]]],
    *arguments: Any,
    oauth: gr.OAuthToken | None,
    request: gr.Request,
) -> Generator[tuple[list[AnyRow], list[str]], None, None]:
    """Fetch models and ask them one after the other.

    Args:
        host: of the page
        turns: of the panel
        names: of the models
        row: makes a model's row before it is asked
        work: one call, see `in_calls`
        arguments: of the work
        oauth: the visitor's login
        request: the visitor's

    Yields:
        The rows as they fill, and what is to be said of how it runs.
    """
    yield [row(name) for name in names], []
    models = fetched(names, account(host, oauth).for_hub, host.allow_folders)
    rows = [row(model.name, trouble=getattr(model, "trouble", "")) for model in models]
    yield rows, []
    with (
        turns.of(request) as turn,
        closing(in_calls(models, rows, work, *arguments, turn=turn)) as stream,
    ):
        for run, now in stream:
            yield now, where(run)


def _bytes_to_load(models: Sequence[FetchedModel | Unavailable], rows: Sequence[ModelRow]) -> list[int]:
    """The weights of each model that still has work to do."""
    return [
        model.bytes
        for model, row in zip(models, rows, strict=True)
        if isinstance(model, FetchedModel) and not row.ended
    ]


def one_by_one(
    models: Sequence[FetchedModel | Unavailable],
    rows: Sequence[AnyRow],
    seconds: int | None,
    device: str,
    work: Callable[[FetchedModel, AnyRow, gpu.GpuCall], Work],
    *,
    interrupt: bool = False,
) -> Iterator[list[AnyRow]]:
    """One GPU call: fill the rows one model after the other, as far as its time goes.

    Args:
        models: on this machine, or why one is not
        rows: to continue from; those that have ended stay
        seconds: of the call, after which the rows are left as they are; None for no limit
        device: the processor counts against no quota, so that work on it continues to the end
        work: on one model; its news and its result are the model's row
        interrupt: cancel work that is not done in time; without this, it watches the time itself

    Yields:
        All rows, as plain data, whenever one has changed and now and then.
    """
    now = list(rows)
    call = gpu.GpuCall(None if device == "cpu" else seconds)
    for place, model in enumerate(models):
        if now[place].ended or isinstance(model, Unavailable):
            continue
        if not call.begins(model.bytes):
            return
        limit = call.seconds_left() if interrupt else None
        try:
            with closing(watched(work(model, now[place], call), seconds=limit)) as working:
                for row in working:
                    now[place] = row or now[place]
                    yield list(now)
        except Cancelled:
            return  # the time is up
        except EvaluationError as error:
            now[place] = replace(now[place], trouble=error_words(error))
        except Exception as error:
            # The other models still have their turn.
            now[place] = replace(now[place], trouble=t("unexpected", error=log_unexpected(error)))
        yield list(now)


def names_in(given: Sequence[str] | None) -> list[str]:
    """The models that the field names, each once.

    Raises:
        gr.Error: none, or too many
    """
    names = list(dict.fromkeys(name.strip() for name in given or () if name.strip()))
    if not names:
        raise gr.Error(t("score.no_models"), print_exception=False)
    if len(names) > MAX_MODELS:
        raise gr.Error(t("score.too_many", most=MAX_MODELS), print_exception=False)
    return names


def fetched(
    names: Sequence[str], token: str | Literal[False], allow_folders: bool
) -> list[FetchedModel | Unavailable]:
    """The models, brought to this machine as far as possible."""
    found: list[FetchedModel | Unavailable] = []
    for name in names:
        try:
            model = fetch_model(name, token=token, allow_folders=allow_folders)
            _ = model.bytes  # raises if its files cannot be read
            found.append(model)
        except EvaluationError as error:
            found.append(Unavailable(name, error_words(error)))
        except Exception as error:
            found.append(Unavailable(name, t("unexpected", error=log_unexpected(error, token or None))))
    return found


def where(run: gpu.GpuRun) -> list[str]:
    """A sentence on how the work ran, if there is anything to say."""
    return [t("score.where", where=run.line)] if run.line else []


def settled(shown: Markup, rows: Sequence[ModelRow]) -> Markup:
    """A panel's own table: open while it fills or if a model failed; then folded, as the one table has its figures."""
    whole = all(row.ended and not row.trouble for row in rows)
    return folded(t("score.details"), shown) if whole else shown


def waiting_row(name: str, columns: int, trouble: str, done: int, total: int) -> Markup:
    """A model's row in a table before its figures are known.

    Args:
        name: of the model
        columns: for figures
        trouble: why there will be none; empty if there may be
        done: questions answered
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

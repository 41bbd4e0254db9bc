"""On the Score tab: a few bundled questions to a merge and its parents, and what plain rules find in their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import gradio as gr
from markupsafe import Markup

from evaluation import EvaluationError, FetchedModel, load_fetched
from evaluation.chat_check import FAULTS, PROMPTS, ChatCheck, Checked, check_chat
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import in_each_language, t
from ui.score.panel import (
    Panel,
    Unavailable,
    bytes_to_load,
    fetched,
    go_and_stop,
    in_turn,
    names_in,
    ready_for_gpu,
    waiting_row,
)
from ui.server import gpu
from ui.server.internal_error import log_unexpected
from ui.server.work import watched
from ui.widgets.events import LONG, NETWORK
from ui.widgets.html import card, column, figure, folded, html, note, scrolling, table, table_row, tag

LONGEST_ANSWER = 128


@dataclass(frozen=True)
class Row:
    """One model's line in the table.

    Args:
        answers: to the first of the bundled questions
        commit: of the model, None for a folder
        trouble: why there are no more
    """

    name: str
    answers: tuple[Checked, ...] = ()
    commit: str | None = None
    trouble: str = ""

    @property
    def check(self) -> ChatCheck | None:
        """The whole of it, when every question is answered."""
        whole = len(self.answers) == len(PROMPTS)
        return ChatCheck(self.name, self.commit, self.answers) if whole else None

    @property
    def ended(self) -> bool:
        return bool(self.trouble) or self.check is not None


@dataclass(frozen=True)
class Talked:
    """How some models answered.

    Args:
        names: of the models, as they were asked for
        checks: as many of them as answered, the first one first
    """

    names: tuple[str, ...]
    checks: tuple[ChatCheck, ...]


def talks(
    models: Sequence[FetchedModel | Unavailable], rows: Sequence[Row], seconds: int | None, device: str
) -> Iterator[list[Row]]:
    """One call: ask one model after the other; yields the table as it fills, as plain data.

    Args:
        models: that are on this machine, or why one is not
        rows: where to go on
        seconds: that were asked for, after which rows are left as they stand; None for no end
        device: to load models on
    """
    now = list(rows)
    for i, model, call in in_turn(models, now, seconds, device):
        try:
            with closing(watched(_talk(model, now[i], call, device))) as talking:
                for said in talking:
                    now[i] = said or now[i]
                    yield list(now)
        except EvaluationError as error:
            now[i] = replace(now[i], trouble=str(error))
        except Exception as error:
            # The other models are still to be asked.
            now[i] = replace(now[i], trouble=t("unexpected", error=log_unexpected(error)))
        yield list(now)


def _talk(
    model: FetchedModel, row: Row, call: gpu.Call, device: str
) -> Callable[[Callable[[Row], None], threading.Event], Row]:
    def talk(tell: Callable[[Row], None], cancel: threading.Event) -> Row:
        live, now = load_fetched(model, device), replace(row, commit=model.commit)
        while not now.ended:
            prompt = PROMPTS[len(now.answers)]
            answered = check_chat(live, [prompt], max_new_tokens=LONGEST_ANSWER, cancel=cancel).answers
            now = replace(now, answers=now.answers + answered)
            tell(now)
            if call.seconds_left() <= 0:
                break
        return now

    return talk


def chat_panel(host: Host, models: gr.Dropdown) -> Panel:
    """Build the part that asks the bundled questions."""
    gr.HTML(in_each_language(lambda: note(t("check.meaning", count=len(PROMPTS), tokens=LONGEST_ANSWER))))
    go, turns = go_and_stop(t("check.button"))
    table = gr.HTML()
    found = gr.State(None)

    def check(
        names: list[str], oauth: gr.OAuthToken | None, request: gr.Request
    ) -> Iterator[tuple[str, Talked | None]]:
        wanted = names_in(names)
        yield check_table([Row(name) for name in wanted]), None
        here = fetched(wanted, account(host, oauth).for_hub, host.allow_folders)
        rows = [Row(model.name, trouble=getattr(model, "trouble", "")) for model in here]
        yield check_table(rows), None
        with turns.of(request) as turn:
            while not all(row.ended for row in rows):
                seconds = gpu.seconds_of_a_call(bytes_to_load(here, [row.ended for row in rows]))
                limit = seconds if gpu.is_zero_gpu() else None
                with closing(gpu.on_gpu(seconds, talks, here, rows, limit)) as stream:
                    for run, rows in stream:
                        if turn.stopped.is_set():
                            rows = [
                                row if row.ended else replace(row, trouble=t("score.stopped")) for row in rows
                            ]
                        notes = [t("score.where", where=run.line)] if run.line else []
                        yield check_table(rows, notes), _talked(wanted, rows)
                        if turn.stopped.is_set():
                            return

    fetching = go.click(
        ready_for_gpu(host), models, None, show_progress="hidden", trigger_mode="once", **NETWORK
    )
    ended = fetching.success(check, models, [table, found], **LONG)
    return Panel(found, ended)


def _talked(names: Sequence[str], rows: Sequence[Row]) -> Talked | None:
    """What is known, once the first model has answered everything."""
    if rows[0].check is None:
        return None
    return Talked(tuple(names), tuple(row.check for row in rows if row.check))


def check_table(rows: Sequence[Row], notes: Sequence[str] = ()) -> Markup:
    """A line for each model, a column for each fault, and below it all answers, folded.

    Args:
        rows: a model each
        notes: more to say
    """
    columns = [column(t("score.model")), *(column(_fault(fault), of_figures=True) for fault in FAULTS)]
    found = table(
        columns, map(_line, rows), caption=t("check.caption", count=len(PROMPTS)), style="alloy-scores"
    )
    return card([scrolling(found), map(tag.p, notes), map(_answers, rows)])


def _fault(fault: str) -> str:
    return t(f"check.fault.{fault.replace(' ', '_')}")


def _line(row: Row) -> Markup:
    if not row.check:
        return waiting_row(row.name, len(FAULTS), row.trouble, len(row.answers), len(PROMPTS))
    return table_row(row.name, map(figure, row.check.counts.values()))


def _answers(row: Row) -> Markup | None:
    if not row.answers:
        return None
    items = [
        (tag.dt(one.prompt), tag.dd(" ".join(one.answer.split()), map(_marked, one.faults)))
        for one in row.answers
    ]
    return folded(t("check.answers", model=row.name), tag.dl(items))


def _marked(fault: str) -> Markup:
    return html(" ", tag.strong(f"[{_fault(fault)}]"))

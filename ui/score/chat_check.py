"""On the Score tab: a few bundled questions to a merge and its parents, and what plain rules find in their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import gradio as gr
from markupsafe import Markup

from evaluation import FetchedModel, load_fetched
from evaluation.chat_check import PROMPTS, ChatCheck, Checked, check_chat
from evaluation.faults import FAULTS
from ui.host import Host
from ui.languages.translate import in_each_language, t
from ui.score.panel import (
    ModelRow,
    Unavailable,
    asked_in_turn,
    go_and_stop,
    names_in,
    one_by_one,
    ready_for_gpu,
    settled,
    waiting_row,
)
from ui.server import gpu
from ui.server.work import Work
from ui.widgets.events import LONG, NETWORK, Updates
from ui.widgets.html import card, column, figure, folded, html, note, scrolling, table, table_row, tag
from ui.widgets.stop_button import stops_until

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class ChatRow(ModelRow):
    """A model's row in the table of answers.

    Args:
        answers: to the first of the bundled questions
        commit: of the model, None for a folder
        ran_as: see `ChatCheck`
    """

    answers: tuple[Checked, ...] = ()
    commit: str | None = None
    ran_as: str = ""

    @property
    def check(self) -> ChatCheck | None:
        """The result, once every question is answered."""
        whole = len(self.answers) == len(PROMPTS)
        return ChatCheck(self.name, self.commit, self.answers, self.ran_as) if whole else None

    @property
    def ended(self) -> bool:
        return bool(self.trouble) or self.check is not None


@dataclass(frozen=True)
class Talked:
    """How some models answered.

    Args:
        names: of the models, as they were asked for
        checks: those of them that answered, the first one first
    """

    names: tuple[str, ...]
    checks: tuple[ChatCheck, ...]


def chat_call(
    models: Sequence[FetchedModel | Unavailable], rows: Sequence[ChatRow], seconds: int | None, device: str
) -> Iterator[list[ChatRow]]:
    """One GPU call: ask one model after the other, see `one_by_one`."""
    return one_by_one(models, rows, seconds, device, partial(_talk, device))


def _talk(device: str, model: FetchedModel, row: ChatRow, call: gpu.GpuCall) -> Work:
    def talk(report: Callable[[ChatRow], None], cancel: threading.Event) -> ChatRow:
        live = load_fetched(model, device)
        now = replace(row, commit=model.commit, ran_as=live.runs_as)
        while not now.ended:
            prompt = PROMPTS[len(now.answers)]
            answered = check_chat(live, [prompt], max_new_tokens=MAX_NEW_TOKENS, cancel=cancel).answers
            now = replace(now, answers=now.answers + answered)
            report(now)
            if call.seconds_left() <= 0:
                break
        return now

    return talk


class ChatPanel:
    """Asks the bundled questions; made inside the page's Blocks. A `Panel` that finds a `Talked`."""

    def __init__(self, host: Host, models: gr.Dropdown) -> None:
        self.host = host
        meaning = in_each_language(
            lambda: note(t("check.meaning", count=len(PROMPTS), tokens=MAX_NEW_TOKENS))
        )
        gr.HTML(meaning)
        go, stop, self.turns = go_and_stop(t("check.button"))
        self.table, self.found = gr.HTML(), gr.State(None)
        ready = go.click(
            ready_for_gpu(host), models, None, show_progress="hidden", trigger_mode="once", **NETWORK
        )
        self.ended = ready.success(self._check, models, [self.table, self.found], **LONG)
        stops_until(stop, ready, self.ended)

    def _check(self, given: list[str], oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        names = names_in(given)
        asking = asked_in_turn(self.host, self.turns, names, ChatRow, chat_call, oauth=oauth, request=request)
        with closing(asking) as stream:
            for rows, notes in stream:
                yield {self.table: settled(check_table(rows, notes), rows), self.found: _talked(names, rows)}


def _talked(names: Sequence[str], rows: Sequence[ChatRow]) -> Talked | None:
    """What is known, once the first model has answered everything."""
    if rows[0].check is None:
        return None
    return Talked(tuple(names), tuple(row.check for row in rows if row.check))


def check_table(rows: Sequence[ChatRow], notes: Sequence[str] = ()) -> Markup:
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


def _line(row: ChatRow) -> Markup:
    if not row.check:
        return waiting_row(row.name, len(FAULTS), row.trouble, len(row.answers), len(PROMPTS))
    return table_row(row.name, map(figure, row.check.counts.values()))


def _answers(row: ChatRow) -> Markup | None:
    if not row.answers:
        return None
    items = [
        (tag.dt(one.prompt), tag.dd(" ".join(one.answer.split()), map(_marked, one.faults)))
        for one in row.answers
    ]
    return folded(t("check.answers", model=row.name), tag.dl(items))


def _marked(fault: str) -> Markup:
    return html(" ", tag.strong(f"[{_fault(fault)}]"))

"""On the Score tab: questions of KMMLU and other benchmarks, asked by lm-eval of a merge and its parents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.blocks import Block
from markupsafe import Markup

from evaluation import EvaluationError, FetchedModel, load_fetched
from evaluation.benchmark import benchmark
from evaluation.benchmarked import Benchmarked, Total, with_error
from evaluation.harness import BENCHMARKS, fetch_questions, tasks_in
from evaluation.paired import PairedScore, paired
from ui.host import Host
from ui.languages.translate import error_words, in_each_language, label, remark_words, t
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
from ui.widgets.events import LONG, NETWORK, Given, Updates
from ui.widgets.html import card, column, figure, folded, note, scrolling, table, table_row, tag
from ui.widgets.stop_button import stops_until

USUAL_QUESTIONS = 10
MAX_EXAMPLES = 25
DIGITS = 3


@dataclass(frozen=True)
class Questions:
    """What is asked, and how.

    Args:
        tasks: of lm-eval
        folder: with more tasks, None for none
        limit: maximum number of questions per task, None for all
        few_shot: solved examples before each question, None for the task's own number
        chat_template: ask in the model's own conversation format
        cache: folder of earlier answers
    """

    tasks: tuple[str, ...]
    folder: Path | None
    limit: int | None
    few_shot: int | None
    chat_template: bool
    cache: Path


@dataclass(frozen=True)
class BenchmarkRow(ModelRow):
    """A model's row in the table of benchmarks.

    Args:
        done: requests answered, of the kind that is being asked
        total: requests in all of that kind; 0 before it began
        found: when it is finished
    """

    done: int = 0
    total: int = 0
    found: Benchmarked | None = None

    @property
    def ended(self) -> bool:
        return bool(self.found or self.trouble)


@dataclass(frozen=True)
class BenchmarkAnswers:
    """What some models answered.

    Args:
        names: of the models, as they were asked for
        found: those of them that could be asked, the first one first
        pairs: the first beside each of the others
    """

    names: tuple[str, ...]
    found: tuple[Benchmarked, ...]
    pairs: tuple[PairedScore, ...] = ()


def benchmark_call(
    models: Sequence[FetchedModel | Unavailable],
    questions: Questions,
    rows: Sequence[BenchmarkRow],
    seconds: int | None,
    device: str,
) -> Iterator[list[BenchmarkRow]]:
    """One GPU call: ask one model after the other, see `one_by_one`."""
    return one_by_one(models, rows, seconds, device, partial(_asking, questions, device), interrupt=True)


def _asking(
    questions: Questions, device: str, model: FetchedModel, row: BenchmarkRow, call: gpu.GpuCall
) -> Work:
    def ask(report: Callable[[BenchmarkRow], None], cancel: threading.Event) -> BenchmarkRow:
        report(BenchmarkRow(model.name))
        found = benchmark(
            load_fetched(model, device),
            questions.tasks,
            folder=questions.folder,
            limit=questions.limit,
            few_shot=questions.few_shot,
            chat_template=questions.chat_template,
            cache=questions.cache,
            on_progress=lambda done, total: report(BenchmarkRow(model.name, done, total)),
            cancel=cancel,
        )
        return BenchmarkRow(model.name, found=found)

    return ask


class BenchmarksPanel:
    """Asks benchmarks; made inside the page's Blocks. A `Panel` that finds a `BenchmarkAnswers`."""

    def __init__(self, host: Host, models: gr.Dropdown) -> None:
        self.host, self.models = host, models
        self.own = tasks_in(host.tasks) if host.tasks else []
        gr.HTML(in_each_language(lambda: note(t("benchmark.meaning"))))
        self._fields()
        go, stop, self.turns = go_and_stop(t("benchmark.button"))
        self.table, self.found = gr.HTML(), gr.State(None)
        inputs: set[Block] = {models, self.tasks, self.limit, self.few_shot, self.template}
        ready = go.click(self._fetch, inputs, None, show_progress="hidden", trigger_mode="once", **NETWORK)
        self.ended = ready.success(self._ask, inputs, [self.table, self.found], **LONG)
        stops_until(stop, ready, self.ended)

    def _fields(self) -> None:
        with gr.Row():
            self.tasks = gr.Dropdown(
                [*((name, name) for name in self.own), *((_offer(name), name) for name in BENCHMARKS)],
                value=[[*self.own, *BENCHMARKS][0]], multiselect=True, label=t("benchmark.tasks"),
                info=t("benchmark.tasks.info"), scale=3, min_width=240,
            )  # fmt: skip
            self.limit = gr.Number(
                USUAL_QUESTIONS, label=t("benchmark.limit"), info=t("benchmark.limit.info"), precision=0, minimum=0,
                scale=1, min_width=160,
            )  # fmt: skip
        with gr.Accordion(t("benchmark.how"), open=False):
            self.few_shot = gr.Number(
                None, label=t("benchmark.few_shot"), info=t("benchmark.few_shot.info"), precision=0, minimum=0,
                maximum=MAX_EXAMPLES,
            )  # fmt: skip
            self.template = gr.Checkbox(
                False, label=t("benchmark.template"), info=t("benchmark.template.info")
            )

    def _questions(self, given: Given) -> Questions:
        known = [name for name in given[self.tasks] or () if name in BENCHMARKS or name in self.own]
        if not known:
            raise gr.Error(t("benchmark.none"), print_exception=False)
        limit, examples = given[self.limit], given[self.few_shot]
        return Questions(
            tuple(known),
            self.host.tasks,
            limit=int(limit) if limit and limit > 0 else None,
            few_shot=None if examples is None else min(max(int(examples), 0), MAX_EXAMPLES),
            chat_template=bool(given[self.template]),
            cache=self.host.benchmarks,
        )

    def _fetch(self, given: Given, oauth: gr.OAuthToken | None) -> None:
        """Fetch models and questions before a GPU is asked for."""
        questions = self._questions(given)
        ready_for_gpu(self.host)(given[self.models], oauth)
        if gpu.is_zero_gpu():
            try:
                fetch_questions(questions.tasks, questions.folder)
            except EvaluationError as error:
                raise gr.Error(error_words(error), print_exception=False) from None

    def _ask(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        names, questions = names_in(given[self.models]), self._questions(given)
        asking = asked_in_turn(
            self.host,
            self.turns,
            names,
            BenchmarkRow,
            benchmark_call,
            questions,
            oauth=oauth,
            request=request,
        )
        with closing(asking) as stream:
            for rows, notes in stream:
                asked = _asked(names, rows)
                shown = benchmark_table(rows, asked, notes)
                yield {self.table: settled(shown, rows), self.found: asked}


def _offer(name: str) -> str:
    return in_each_language(lambda: f"{name}: {label(f'benchmark.{name}')}")


def _asked(names: Sequence[str], rows: Sequence[BenchmarkRow]) -> BenchmarkAnswers | None:
    """What is known, once the first model has answered."""
    if not rows or rows[0].found is None:
        return None
    found = [row.found for row in rows if row.found]
    return BenchmarkAnswers(tuple(names), tuple(found), tuple(paired(found[0], other) for other in found[1:]))


def benchmark_table(
    rows: Sequence[BenchmarkRow], asked: BenchmarkAnswers | None = None, notes: Sequence[str] = ()
) -> Markup:
    """A line for each model, a column for each benchmark, and what can be said of the differences.

    Args:
        rows: a model each
        asked: what is known so far
        notes: more to say
    """
    totals: tuple[Total, ...] = asked.found[0].totals if asked else ()
    columns = [
        column(t("score.model")),
        *(column([total.name, tag.small(total.metric)], of_figures=True) for total in totals),
    ]
    body = [_line(row, max(len(totals), 1)) for row in rows]
    questions = sum(total.questions for total in totals)
    caption = t("benchmark.caption", count=questions) if totals else t("benchmark.caption.waiting")
    pairs = asked.pairs if asked else ()
    said = [*(" ".join(map(remark_words, pair.remarks)) for pair in pairs), *notes]
    if asked:
        said.append(t("benchmark.how.said", version=asked.found[0].lm_eval))
    parts = map(_parts, asked.found) if asked else None
    return card([scrolling(table(columns, body, caption=caption)), map(tag.p, said), parts])


def _line(row: BenchmarkRow, columns: int) -> Markup:
    if row.found:
        return table_row(row.name, (figure(with_error(one, DIGITS)) for one in row.found.totals))
    return waiting_row(row.name, columns, row.trouble, row.done, row.total)


def _parts(found: Benchmarked) -> Markup | None:
    """The tasks of a group, folded: KMMLU has 45."""
    if len(found.scores) == len(found.totals):
        return None
    columns = (
        column(t("benchmark.task")),
        column(t("benchmark.score"), of_figures=True),
        column(t("benchmark.questions"), of_figures=True),
    )
    rows = (
        table_row(score.task, figure(with_error(score, DIGITS)), figure(score.questions))
        for score in found.scores
    )
    summary = t("benchmark.parts", model=found.model, count=len(found.scores))
    return folded(summary, scrolling(table(columns, rows)))

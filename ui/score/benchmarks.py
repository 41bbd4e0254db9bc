"""On the Score tab: questions of KMMLU and other benchmarks, asked by lm-eval of a merge and its parents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from evaluation import Cancelled, EvaluationError, FetchedModel, load_fetched
from evaluation.benchmark import (
    BENCHMARKS,
    Benchmarked,
    PairedScore,
    Total,
    benchmark,
    fetch_questions,
    paired,
    tasks_in,
    with_error,
)
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import in_each_language, of_report, t
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
from ui.widgets.html import card, column, figure, folded, note, scrolling, table, table_row, tag

FEW_QUESTIONS = 10
MOST_EXAMPLES = 25
DIGITS = 3


@dataclass(frozen=True)
class Questions:
    """What is asked, and how.

    Args:
        tasks: of lm-eval
        folder: with more tasks, None for none
        limit: questions of each task at most, None for all
        few_shot: solved examples before each, None for the task's own number
        chat_template: in the model's own form of a conversation
        cache: folder of what was answered before
    """

    tasks: tuple[str, ...]
    folder: Path | None
    limit: int | None
    few_shot: int | None
    chat_template: bool
    cache: Path


@dataclass(frozen=True)
class Row:
    """One model's line in the table.

    Args:
        done: requests that are answered, of the kind that is under way
        total: requests in all of that kind; 0 before it began
        found: when it is finished
        trouble: why there is no score
    """

    name: str
    done: int = 0
    total: int = 0
    found: Benchmarked | None = None
    trouble: str = ""

    @property
    def ended(self) -> bool:
        return bool(self.found or self.trouble)


@dataclass(frozen=True)
class Asked:
    """What some models answered.

    Args:
        names: of the models, as they were asked for
        found: as many of them as could be asked, the first one first
        pairs: the first beside each of the others
    """

    names: tuple[str, ...]
    found: tuple[Benchmarked, ...]
    pairs: tuple[PairedScore, ...] = ()


def answers(
    models: Sequence[FetchedModel | Unavailable],
    questions: Questions,
    rows: Sequence[Row],
    seconds: int | None,
    device: str,
) -> Iterator[list[Row]]:
    """Ask one model after the other; yields the table as it fills, as plain data.

    Args:
        models: that are on this machine, or why one is not
        questions: what is asked
        rows: that are there already; those that have ended stay
        seconds: that were asked for, after which rows are left as they stand, for the next call to go on; None for no
            end
        device: to load models on
    """
    now = list(rows)
    for i, model, call in in_turn(models, now, seconds, device):
        now[i] = Row(model.name)
        yield list(now)
        try:
            with closing(watched(_asking(model, questions, device), seconds=call.seconds_left())) as asking:
                for said in asking:
                    now[i] = said or now[i]
                    yield list(now)
        except Cancelled:
            return  # the time is up
        except EvaluationError as error:
            now[i] = Row(model.name, trouble=str(error))
        except Exception as error:
            # The other models are still to be asked.
            now[i] = Row(model.name, trouble=t("unexpected", error=log_unexpected(error)))
        yield list(now)


def _asking(
    model: FetchedModel, questions: Questions, device: str
) -> Callable[[Callable[[Row], None], threading.Event], Row]:
    def ask(tell: Callable[[Row], None], cancel: threading.Event) -> Row:
        found = benchmark(
            load_fetched(model, device),
            questions.tasks,
            folder=questions.folder,
            limit=questions.limit,
            few_shot=questions.few_shot,
            chat_template=questions.chat_template,
            cache=questions.cache,
            on_progress=lambda done, total: tell(Row(model.name, done, total)),
            cancel=cancel,
        )
        return Row(model.name, found=found)

    return ask


def benchmarks_panel(host: Host, models: gr.Dropdown) -> Panel:
    """Build the part that asks benchmarks."""
    own = tasks_in(host.tasks) if host.tasks else []
    gr.HTML(in_each_language(lambda: note(t("benchmark.meaning"))))
    with gr.Row():
        tasks = gr.Dropdown(
            [*((name, name) for name in own), *((_offer(name), name) for name in BENCHMARKS)],
            value=[[*own, *BENCHMARKS][0]], multiselect=True, label=t("benchmark.tasks"),
            info=t("benchmark.tasks.info"), scale=3, min_width=240,
        )  # fmt: skip
        limit = gr.Number(
            FEW_QUESTIONS, label=t("benchmark.limit"), info=t("benchmark.limit.info"), precision=0, minimum=0,
            scale=1, min_width=160,
        )  # fmt: skip
    with gr.Accordion(t("benchmark.how"), open=False), gr.Row():
        few_shot = gr.Number(
            None, label=t("benchmark.few_shot"), info=t("benchmark.few_shot.info"), precision=0, minimum=0,
            maximum=MOST_EXAMPLES, min_width=200,
        )  # fmt: skip
        template = gr.Checkbox(
            False, label=t("benchmark.template"), info=t("benchmark.template.info"), min_width=200
        )
    go, turns = go_and_stop(t("benchmark.button"))
    table = gr.HTML()
    found = gr.State(None)

    def questions_of(chosen: list[str], most: float | None, shots: float | None, talk: bool) -> Questions:
        known = [name for name in chosen or () if name in BENCHMARKS or name in own]
        if not known:
            raise gr.Error(t("benchmark.none"), print_exception=False)
        few = None if shots is None else min(max(int(shots), 0), MOST_EXAMPLES)
        return Questions(
            tuple(known),
            host.tasks,
            int(most) if most and most > 0 else None,
            few,
            bool(talk),
            host.benchmarks,
        )

    def fetch(
        names: list[str], chosen: list[str], most: float | None, shots: float | None, talk: bool,
        oauth: gr.OAuthToken | None,
    ) -> None:  # fmt: skip
        """Models and questions, before a GPU is asked for."""
        questions = questions_of(chosen, most, shots, talk)
        ready_for_gpu(host)(names, oauth)
        if gpu.is_zero_gpu():
            try:
                fetch_questions(questions.tasks, questions.folder)
            except EvaluationError as error:
                raise gr.Error(str(error), print_exception=False) from None

    def ask(
        names: list[str], chosen: list[str], most: float | None, shots: float | None, talk: bool,
        oauth: gr.OAuthToken | None, request: gr.Request,
    ) -> Iterator[tuple[str, Asked | None]]:  # fmt: skip
        wanted = names_in(names)
        questions = questions_of(chosen, most, shots, talk)
        yield benchmark_table([Row(name) for name in wanted]), None
        here = fetched(wanted, account(host, oauth).for_hub, host.allow_folders)
        rows = [Row(model.name, trouble=getattr(model, "trouble", "")) for model in here]
        yield benchmark_table(rows), None
        with turns.of(request) as turn:
            while not all(row.ended for row in rows):
                seconds = gpu.seconds_of_a_call(bytes_to_load(here, [row.ended for row in rows]))
                limit = seconds if gpu.is_zero_gpu() else None
                with closing(gpu.on_gpu(seconds, answers, here, questions, rows, limit)) as stream:
                    for run, rows in stream:
                        if turn.stopped.is_set():
                            rows = [
                                row if row.ended else replace(row, trouble=t("score.stopped")) for row in rows
                            ]
                        asked = _asked(wanted, rows)
                        notes = [t("score.where", where=run.line)] if run.line else []
                        yield benchmark_table(rows, asked, notes), asked
                        if turn.stopped.is_set():
                            return

    fetching = go.click(
        fetch,
        [models, tasks, limit, few_shot, template],
        None,
        show_progress="hidden",
        trigger_mode="once",
        **NETWORK,
    )
    ended = fetching.success(ask, [models, tasks, limit, few_shot, template], [table, found], **LONG)
    return Panel(found, ended)


def _offer(name: str) -> str:
    return in_each_language(lambda: f"{name}: {of_report(BENCHMARKS[name])}")


def _asked(names: Sequence[str], rows: Sequence[Row]) -> Asked | None:
    """What is known, once the first model has answered."""
    if not rows or rows[0].found is None:
        return None
    found = [row.found for row in rows if row.found]
    return Asked(tuple(names), tuple(found), tuple(paired(found[0], other) for other in found[1:]))


def benchmark_table(rows: Sequence[Row], asked: Asked | None = None, notes: Sequence[str] = ()) -> Markup:
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
    said = [*map(_pair_words, asked.pairs if asked else ()), *notes]
    if asked:
        said.append(t("benchmark.how.said", version=asked.found[0].lm_eval))
    parts = map(_parts, asked.found) if asked else None
    return card([scrolling(table(columns, body, caption=caption)), map(tag.p, said), parts])


def _line(row: Row, columns: int) -> Markup:
    if row.found:
        return table_row(row.name, (figure(with_error(one, DIGITS)) for one in row.found.totals))
    return waiting_row(row.name, columns, row.trouble, row.done, row.total)


def _pair_words(pair: PairedScore) -> str:
    names = {"model": pair.model, "other": pair.other}
    if pair.interval is None:
        return t("benchmark.pair.few", count=pair.questions, **names)
    low, high = pair.interval
    figures = t(
        "benchmark.figures", value=f"{pair.difference:+.3f}", count=pair.questions, low=f"{low:+.3f}",
        high=f"{high:+.3f}",
    )  # fmt: skip
    verdict = "none" if low <= 0 <= high else "higher" if low > 0 else "lower"
    return t(f"benchmark.pair.{verdict}", figures=figures, **names)


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
        table_row(score.task, figure(with_error(score, DIGITS)), figure(len(score.answers)))
        for score in found.scores
    )
    summary = t("benchmark.parts", model=found.model, count=len(found.scores))
    return folded(summary, scrolling(table(columns, rows)))

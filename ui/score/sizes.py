"""On the Score tab: how large models are, how fast they answer, and whether each is complete on its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gradio as gr
from markupsafe import Markup

from evaluation import EvaluationError, Perplexity
from evaluation.footprint import Footprint, footprint
from evaluation.report import Report
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import error_words, in_each_language, label, remark_words, t
from ui.score.panel import fetched, go_and_stop, names_in, ready_for_gpu
from ui.score.reading import scored
from ui.score.text import ScoredTexts, TextPanel
from ui.server.model_process import MODELS
from ui.server.work import Turn, watched
from ui.widgets.events import LONG, NETWORK, Given, Updates
from ui.widgets.html import card, column, figure, folded, note, scrolling, table, table_row, tag
from ui.widgets.stop_button import stops_until


@dataclass(frozen=True)
class MeasuredModels:
    """How large some models are and how fast they answer.

    Args:
        names: of the models, as they were asked for
        report: a column each
    """

    names: tuple[str, ...]
    report: Report


class SizesPanel:
    """Measures sizes and speeds; made inside the page's Blocks. A `Panel` that finds a `MeasuredModels`."""

    def __init__(self, host: Host, models: gr.Dropdown, text: TextPanel) -> None:
        """`text` is what the models read for their perplexities, unless it has them already."""
        self.host, self.models, self.text = host, models, text
        gr.HTML(in_each_language(lambda: note(t("score.compare.info"))))
        self.reads = gr.Checkbox(True, label=t("score.compare.reads"))
        go, stop, self.turns = go_and_stop(t("score.compare"))
        self.table, self.found = gr.HTML(), gr.State(None)
        inputs = {models, self.reads, text.found, *text.fields.inputs}
        ready = go.click(
            ready_for_gpu(host), models, None, show_progress="hidden", trigger_mode="once", **NETWORK
        )
        self.ended = ready.success(self._measure, inputs, [self.table, self.found], **LONG)
        stops_until(stop, ready, self.ended)

    def _measure(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        names, token = names_in(given[self.models]), account(self.host, oauth).for_hub
        prints: list[Footprint] = []
        with self.turns.of(request) as turn:
            try:
                scores = yield from self._scores(given, names, token, turn)
                for name in names:
                    so_far = _report(prints, scores)
                    working = report_card(so_far, t("score.compare.working", name=name))
                    asked = (name, self._others(name, names), token, self.host.allow_folders)
                    with closing(MODELS.stream(measured, *asked)) as measuring:
                        for found in measuring:
                            if turn.stopped.is_set():
                                yield {self.table: report_card(so_far, t("score.stopped")), self.found: None}
                                return
                            # With or without news: Gradio notices here whether the page is still open.
                            yield {self.table: working, self.found: None}
                            if found is not None:
                                prints.append(found)
            except EvaluationError as error:
                raise gr.Error(error_words(error), print_exception=False) from None
        report = _report(prints, scores)
        assert report is not None
        shown = folded(t("score.details"), report_card(report))
        yield {self.table: shown, self.found: MeasuredModels(tuple(names), report)}

    def _scores(
        self, given: Given, names: Sequence[str], token: str | Literal[False], turn: Turn
    ) -> Generator[Updates, None, tuple[Perplexity, ...]]:
        """Each model's perplexity on the text above, if that is wanted; those that are known are not asked again."""
        if not given[self.reads]:
            return ()
        texts = self.text.fields.chosen(given, token).texts
        before: ScoredTexts | None = given[self.text.found]
        known = {score.model: score for score in before.scores} if before and before.texts == texts else {}
        if all(name in known for name in names):
            return tuple(known[name] for name in names)
        models = fetched(names, token, self.host.allow_folders)
        with closing(scored(models, texts, turn=turn)) as stream:
            for _, rows in stream:
                reading = next((row for row in rows if not row.ended), rows[-1])
                working = t(
                    "score.compare.reading", name=reading.name, share=round(100 * (reading.done or 0))
                )
                yield {self.table: report_card(None, working), self.found: None}
        return tuple(row.score for row in rows if row.score)

    def _others(self, name: str, names: Sequence[str]) -> list[str]:
        """The folders of the other models, which are out of reach while one is measured."""
        return [
            other for other in names if other != name and self.host.allow_folders and Path(other).is_dir()
        ]


def measured(
    name: str, out_of_reach: Sequence[str], token: str | Literal[False], allow_folders: bool
) -> Iterator[Footprint | None]:
    """Measure one model; yields None now and then, and the figures."""
    return watched(
        lambda _, cancel: footprint(
            name,
            token=token,
            device="cpu",
            allow_folders=allow_folders,
            out_of_reach=out_of_reach,
            cancel=cancel,
        )
    )


def _report(prints: Sequence[Footprint], scores: Sequence[Perplexity]) -> Report | None:
    """The table of what was measured, with perplexities if they are known for all of these models."""
    if not prints:
        return None
    by_name = {score.model: score for score in scores}
    known = tuple(by_name[one.name] for one in prints if one.name in by_name)
    return Report(tuple(prints), known if len(known) == len(prints) else ())


def report_card(report: Report | None, working: str = "") -> Markup:
    """The table of sizes and speeds, with its sentences.

    Args:
        report: what was measured so far
        working: what is being measured now
    """
    waiting = tag.p(working, class_="alloy-quiet", role="status") if working else None
    if report is None:
        return card(waiting)
    columns = tag.td(), *(column(one.name, of_figures=True) for one in report.footprints)
    body = (
        table_row(label(f"report.{code}"), map(figure, cells)) for code, *cells in report.rows(remark_words)
    )
    shown = table(columns, body, caption=t("score.compare.caption"))
    return card([scrolling(shown), waiting or map(tag.p, map(remark_words, report.remarks()))])

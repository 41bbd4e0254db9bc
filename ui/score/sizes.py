"""On the Score tab: how large models are, how fast they answer, and whether each is complete on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from ui.score.panel import go_and_stop, names_in
from ui.score.text import Scored
from ui.server.model_process import MODELS
from ui.server.work import watched
from ui.widgets.events import LONG, Updates
from ui.widgets.html import card, column, figure, note, scrolling, table, table_row, tag


@dataclass(frozen=True)
class Measured:
    """How large some models are and how fast they answer.

    Args:
        names: of the models, as they were asked for
        report: a column each
    """

    names: tuple[str, ...]
    report: Report


class SizesPanel:
    """Measures sizes and speeds; made inside the page's Blocks. A `Panel` that finds a `Measured`."""

    def __init__(self, host: Host, models: gr.Dropdown, scored: gr.State) -> None:
        """`scored` may hold a `Scored`, whose perplexities are added to the table."""
        self.host = host
        gr.HTML(in_each_language(lambda: note(t("score.compare.info"))))
        go, self.turns = go_and_stop(t("score.compare"))
        self.table, self.found = gr.HTML(), gr.State(None)
        self.ended = go.click(self._measure, [models, scored], [self.table, self.found], **LONG)

    def _measure(
        self, given: list[str], scored: Scored | None, oauth: gr.OAuthToken | None, request: gr.Request
    ) -> Iterator[Updates]:
        names, token = names_in(given), account(self.host, oauth).for_hub
        prints: list[Footprint] = []
        with self.turns.of(request) as turn:
            try:
                for name in names:
                    so_far = _report(prints, scored)
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
        report = _report(prints, scored)
        assert report is not None
        yield {self.table: report_card(report), self.found: Measured(tuple(names), report)}

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


def _report(prints: Sequence[Footprint], scored: Scored | None) -> Report | None:
    """The table of what was measured, with perplexities if they are known for all of these models."""
    if not prints:
        return None
    by_name: dict[str, Perplexity] = {score.model: score for score in scored.scores} if scored else {}
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

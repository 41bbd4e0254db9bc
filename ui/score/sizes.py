"""On the Score tab: what models weigh, how fast they answer, and whether each stands alone, side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from evaluation import EvaluationError, Perplexity
from evaluation.footprint import Footprint, footprint
from evaluation.report import Report
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import in_each_language, of_report, t
from ui.score.panel import Panel, go_and_stop, names_in
from ui.score.text import Scored
from ui.server.work import watched
from ui.widgets.events import LONG
from ui.widgets.html import card, column, figure, note, scrolling, table, table_row, tag


@dataclass(frozen=True)
class Measured:
    """What some models weigh and how fast they are.

    Args:
        names: of the models, as they were asked for
        report: a column each
    """

    names: tuple[str, ...]
    report: Report


def sizes_panel(host: Host, models: gr.Dropdown, scored: gr.State) -> Panel:
    """Build the part that measures sizes and speeds; `scored` adds known perplexities."""
    gr.HTML(in_each_language(lambda: note(t("score.compare.info"))))
    go, turns = go_and_stop(t("score.compare"))
    table = gr.HTML()
    found = gr.State(None)

    def measure(
        names: list[str], known: Scored | None, oauth: gr.OAuthToken | None, request: gr.Request
    ) -> Iterator[tuple[str, Measured | None]]:
        wanted, token = names_in(names), account(host, oauth).for_hub
        folders = [name for name in wanted if host.allow_folders and Path(name).is_dir()]
        prints: list[Footprint] = []

        def one(name: str) -> Callable[[Any, threading.Event], Footprint]:
            others = [other for other in folders if other != name]
            return lambda _, cancel: footprint(
                name, token=token, device="cpu", allow_folders=host.allow_folders, out_of_reach=others, cancel=cancel
            )  # fmt: skip

        with turns.of(request) as turn:
            try:
                for name in wanted:
                    so_far = report_card(_report(prints, known), t("score.compare.working", name=name))
                    with closing(watched(one(name))) as measuring:
                        for print_ in measuring:
                            if turn.stopped.is_set():
                                yield report_card(_report(prints, known), t("score.stopped")), None
                                return
                            # With or without news; Gradio notices here whether the page is still there.
                            yield so_far, None
                            if print_ is not None:
                                prints.append(print_)
            except EvaluationError as error:
                raise gr.Error(str(error), print_exception=False) from None
        report = _report(prints, known)
        assert report is not None
        yield report_card(report), Measured(tuple(wanted), report)

    ended = go.click(measure, [models, scored], [table, found], **LONG)
    return Panel(found, ended)


def _report(prints: Sequence[Footprint], known: Scored | None) -> Report | None:
    """The table of what is measured; with perplexities, if they are known of just these models."""
    if not prints:
        return None
    by_name: dict[str, Perplexity] = {score.model: score for score in known.scores} if known else {}
    scores = tuple(by_name[one.name] for one in prints if one.name in by_name)
    return Report(tuple(prints), scores if len(scores) == len(prints) else ())


def report_card(report: Report | None, working: str = "") -> Markup:
    """The table of sizes and speeds, with its sentences.

    Args:
        report: what was measured so far
        working: what is being done now
    """
    waiting = tag.p(working, class_="alloy-quiet", role="status") if working else None
    if report is None:
        return card(waiting)
    head, *rows = report.table()
    columns = tag.td(), *(column(cell, of_figures=True) for cell in head[1:])
    body = (table_row(of_report(row[0]), (figure(of_report(cell)) for cell in row[1:])) for row in rows)
    shown = table(columns, body, caption=t("score.compare.caption"))
    return card([scrolling(shown), waiting or map(tag.p, report.remarks())])

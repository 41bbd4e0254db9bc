"""A search as its visitor sees it: the picture while it runs, and in the end a sentence and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from merging.recipe.gradients import on_gradient
from ui.languages.translate import remark_words, t
from ui.merge.job_card import log_of, waiting_line
from ui.search.chart import chart, front_chart, goal_name, name_of
from ui.server.jobs import JobStatus
from ui.server.search_state import SearchState
from ui.widgets.heat_map import heat_map
from ui.widgets.html import (
    Content,
    bar,
    card,
    column,
    duration,
    figure,
    folded,
    heading,
    html,
    problem_list,
    quiet,
    scrolling,
    table,
    table_row,
    tag,
)

if TYPE_CHECKING:
    from searching import Comparison, SearchReport

_MOODS = {"waiting": "idle", "running": "busy", "done": "good", "failed": "bad", "cancelled": "idle"}


def no_search_card() -> Markup:
    """When there is no search."""
    return card(quiet(t("search.empty")))


def lost_card() -> Markup:
    """When the search that the browser remembers is gone."""
    return card(quiet(t("search.lost")))


def search_card(job: JobStatus) -> Markup:
    """A search."""
    state = t("jobs.stopping") if job.stopping else t(f"search.{job.state}")
    found = job.search or SearchState()
    body: list[Content] = [heading(f"{state}: {job.title}", 2)]
    if job.state == "waiting":
        body.append(waiting_line(job))
    if job.state == "running":
        body.append(_progress(job, found))
    if job.state == "failed":
        body.append(problem_list(job.problems))
    if job.state == "cancelled":
        body.append(quiet(t("search.cancelled.kept" if found.recipe else "search.cancelled.nothing")))
    if found.report:
        body.append(_report(found.report))
    body += [chart(found), _coefficients(found), front_chart(found.report) if found.report else None]
    if not job.is_live:
        body += [_recipe(found), _whole_report(found), log_of(job)]
    return card(body, _MOODS[job.state])


def _progress(job: JobStatus, found: SearchState) -> Markup:
    numbers = [t(f"jobs.phase.{found.phase}") if job.search else t("jobs.phase.start")]
    if found.values:
        numbers.append(t("search.trials", count=len(found.values)))
    if found.best is not None and "average" in found.baselines:
        gain = found.baselines["average"] - found.best
        key = "search.best" if gain >= 0.00005 else "search.best.none"
        numbers.append(t(key, best=f"{found.best:.4f}", gain=f"{gain:.4f}"))
    if job.seconds_left and found.phase == "trials":
        numbers.append(t("search.left", time=duration(job.seconds_left)))
    if found.least is not None:
        numbers.append(t("search.least", least=f"{found.least:.4f}"))
    filled = bar(job.percent, t("jobs.progress", title=job.title))
    return html(filled, tag.div(map(tag.span, numbers), class_="alloy-numbers"))


def _coefficients(found: SearchState) -> Markup | None:
    """The best numbers, by layer where there are several of a kind."""
    if not any(len(anchors) > 1 for anchors in found.coefficients.values()):
        return None
    layers = max(found.layers, 2)
    rows = {
        name.rpartition("/")[2]: [
            float(on_gradient(anchors, layer / (layers - 1))) for layer in range(layers)
        ]
        for name, anchors in found.coefficients.items()
    }
    return heat_map(t("search.coefficients"), rows)


# -- the report -------------------------------------------------------------------------------------------


def _report(report: SearchReport) -> Markup:
    said = [tag.p(remark_words(report.verdict), class_="alloy-result")]
    if report.comparisons:
        count = sum(parts["report"] for parts in report.documents.values())
        said += [
            _table(report),
            quiet(t("search.report.caption", count=count)),  # not in the table, which phones cut off
            quiet(remark_words(report.corrected)),
        ]
    if report.gains:
        said.append(quiet(remark_words(report.gained)))
    return html(said)


def _difference(one: Comparison) -> str:
    if one.interval is None:
        return f"{one.difference:+.4f}"
    low, high = one.interval
    return t("search.difference", value=f"{one.difference:+.4f}", low=f"{low:+.4f}", high=f"{high:+.4f}")


def _table(report: SearchReport) -> Markup:
    goals = list(report.figures)
    keys = ("search.report.difference", "search.report.verdict")
    columns = [
        column(t("search.report.recipe")),
        *(column(goal_name(goal), of_figures=True) for goal in goals),
        *(column(t(key), of_figures=True) for key in keys),
    ]
    who = report.winner or ""
    rows = [table_row(name_of("best"), _figures(report, goals, who), figure(""), figure(""))]
    rows += [_row(report, goals, one) for one in report.comparisons]
    return scrolling(table(columns, rows), focusable=True)


def _row(report: SearchReport, goals: Sequence[str], one: Comparison) -> Markup:
    said = figure(remark_words(one.word))
    return table_row(name_of(one.other), _figures(report, goals, one.other), figure(_difference(one)), said)


def _figures(report: SearchReport, goals: Sequence[str], who: str) -> list[Markup]:
    found = [report.figures[goal].get(who, {}).get("report") for goal in goals]
    return [figure("" if value is None else f"{value:.4f}") for value in found]


def _recipe(found: SearchState) -> Markup | None:
    return folded(t("search.recipe"), tag.pre(found.recipe)) if found.recipe else None


def _whole_report(found: SearchState) -> Markup | None:
    """As it is written into the folder of a search, in the visitor's language."""
    if found.report is None:
        return None
    return folded(t("search.report.whole"), tag.pre(found.report.markdown(remark_words)))

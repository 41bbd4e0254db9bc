"""The trials of a search as a picture: each score, the best so far, and the baselines drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from markupsafe import Markup

from evaluation.remark import Remark
from searching.names import named
from ui.languages.translate import remark_words, t
from ui.server.search_state import SearchState
from ui.widgets.html import html, part, quiet, scrolling, tag

if TYPE_CHECKING:
    from searching import SearchReport

WIDTH, HEIGHT = 440, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 130, 12, 24
# Between two lines of text.
LINE = 13
# Trials that the picture has room for from the beginning.
FEWEST_TRIALS = 8
MAX_NAME = 22

# Texts with names of the page's own.
KNOWN = ("english", "korean", "pirate", "bard", "own", "votes", "chats", "chat")
Place = Callable[[float], float]


def chart(state: SearchState) -> Markup:
    """The trials; nothing before the first score."""
    known = [value for value in state.values if value is not None]
    if not known and not state.baselines:
        return Markup("")
    low, high = _ends([*known, *state.baselines.values()])
    across = _scale(0, max(len(state.values) - 1, FEWEST_TRIALS), LEFT, WIDTH - RIGHT)
    up = _scale(low, high, HEIGHT - BOTTOM, TOP)
    shapes = [
        _axes(low, high, up, t("search.chart.trials")),
        _baselines(state.baselines, up),
        _trials(state.values, across, up),
    ]
    picture = tag.svg(
        shapes, class_="alloy-trials", role="img", aria_label=_label(state), viewBox=f"0 0 {WIDTH} {HEIGHT}"
    )
    return html(scrolling(picture, focusable=True), quiet(t("search.chart.legend")))


def name_of(who: str) -> str:
    """What a recipe is called: a parent without its owner."""
    if who.startswith("parent "):
        return who.rpartition("/")[2].removeprefix("parent ")
    return remark_words(Remark("search-named", {"who": named(who)}))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """A little below and above all values."""
    room = 0.06 * (max(values) - min(values)) or 0.01
    return min(values) - room, max(values) + room


def _scale(low: float, high: float, begin: float, end: float) -> Place:
    return lambda value: round(begin + (value - low) / (high - low) * (end - begin), 1)


def _axes(low: float, high: float, up: Place, across: str) -> Iterator[Markup]:
    yield tag.path(class_="axis", d=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}")
    for value in (low, (low + high) / 2, high):
        yield tag.text(f"{value:.3f}", x=LEFT - 5, y=up(value) + 3, text_anchor="end")
    yield tag.text(across, x=WIDTH - RIGHT, y=HEIGHT - 8, text_anchor="end")


def _baselines(baselines: Mapping[str, float], up: Place) -> Iterator[Markup]:
    """A dashed line each, with its name behind it; names that would overlap move down."""
    before = -float(LINE)
    for who, value in sorted(baselines.items(), key=lambda entry: -entry[1]):
        y = up(value)
        before = max(y + 3, before + LINE)
        yield tag.path(class_="baseline", d=f"M{LEFT} {y}H{WIDTH - RIGHT}")
        yield _named(who, f"{value:.4f}", WIDTH - RIGHT + 5, before)


def _named(who: str, said: str, x: float, y: float) -> Markup:
    """The name of a baseline, cut to the room that it has."""
    name = name_of(who)
    short = name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
    return tag.text(tag.title(f"{name}: {said}"), short, x=x, y=y)


def _trials(values: Sequence[float | None], across: Place, up: Place) -> Iterator[Markup]:
    scored = [(number, value) for number, value in enumerate(values) if value is not None]
    if not scored:
        return
    best = list(accumulate((value for _, value in scored), min))
    steps = [f"M{across(scored[0][0])} {up(best[0])}"]
    steps += [f"H{across(number)}V{up(lowest)}" for (number, _), lowest in zip(scored, best, strict=True)]
    yield tag.path(class_="best", d="".join(steps))
    for number, value in scored:
        said = tag.title(t("search.chart.trial", number=number + 1, value=f"{value:.4f}"))
        yield tag.circle(said, class_="trial", cx=across(number), cy=up(value), r=3.5)


def front_chart(report: SearchReport) -> Markup:
    """Where two texts pull apart: the trials that are best for some weighting of them, between the baselines."""
    texts = [name for name in report.figures if all(name in found for found in report.front.values())]
    if len(report.front) < 2 or len(texts) != 2:
        return Markup("")
    one, other = texts
    points = {who: (found[one], found[other]) for who, found in report.front.items()}
    known = {
        who: (report.figures[one][who]["search"], report.figures[other][who]["search"])
        for who in report.figures[one]
        if not who.startswith("trial ")
        and all("search" in report.figures[text].get(who, {}) for text in texts)
    }
    low, high = zip(
        *(_ends(values) for values in zip(*points.values(), *known.values(), strict=True)), strict=True
    )
    across = _scale(low[0], high[0], LEFT, WIDTH - RIGHT)
    up = _scale(low[1], high[1], HEIGHT - BOTTOM, TOP)
    path = "L".join(f"{across(x)} {up(y)}" for x, y in sorted(points.values()))
    shapes: list[Markup] = [
        *_axes(low[1], high[1], up, goal_name(one)),
        tag.path(class_="best", d=f"M{path}"),
    ]
    for who, (x, y) in points.items():
        kind = "trial winner" if who == report.winner else "trial"
        shapes.append(tag.circle(tag.title(f"{x:.4f}, {y:.4f}"), class_=kind, cx=across(x), cy=up(y), r=3.5))
    before = -float(LINE)
    for who, (x, y) in sorted(known.items(), key=lambda entry: -entry[1][1]):
        before = max(up(y) + 3, before + LINE)
        shapes.append(tag.circle(class_="known", cx=across(x), cy=up(y), r=3))
        shapes.append(_named(who, f"{x:.4f}, {y:.4f}", across(x) + 6, before))
    label = t("search.front.label", one=goal_name(one), other=goal_name(other), count=len(points))
    picture = tag.svg(
        shapes, class_="alloy-trials", role="img", aria_label=label, viewBox=f"0 0 {WIDTH} {HEIGHT}"
    )
    legend = t("search.front.legend", one=goal_name(one), other=goal_name(other))
    return html(part(t("search.front")), scrolling(picture, focusable=True), quiet(legend))


def goal_name(goal: str) -> str:
    """What a goal of the tab is called; any other by its own name."""
    name, _, limit = goal.partition(", ")
    words = t(f"search.text.{name}") if name in KNOWN else name
    return f"{words}, {t('search.limit')}" if limit == "limit" else words


def _label(state: SearchState) -> str:
    best = "-" if state.best is None else f"{state.best:.4f}"
    lines = "; ".join(f"{name_of(who)}: {value:.4f}" for who, value in state.baselines.items())
    return t("search.chart.label", count=len(state.values), best=best, baselines=lines)

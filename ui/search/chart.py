"""The trials of a search as a picture: each score, the best so far, and the baselines drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from markupsafe import Markup

from ui.languages.translate import t
from ui.server.search_state import SearchState
from ui.widgets.html import html, quiet, tag

WIDTH, HEIGHT = 440, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 130, 12, 24
# Between two lines of text.
LINE = 13
# Trials that the picture has room for from the beginning.
FEWEST_TRIALS = 8
MAX_NAME = 20

Place = Callable[[float], float]


def chart(state: SearchState) -> Markup:
    """The trials; nothing before the first score."""
    known = [value for value in state.values if value is not None]
    if not known and not state.baselines:
        return Markup("")
    low, high = _ends([*known, *state.baselines.values()])
    across = _scale(0, max(len(state.values) - 1, FEWEST_TRIALS), LEFT, WIDTH - RIGHT)
    up = _scale(low, high, HEIGHT - BOTTOM, TOP)
    shapes = [_axes(low, high, up), _baselines(state.baselines, up), _trials(state.values, across, up)]
    picture = tag.svg(
        shapes, class_="alloy-trials", role="img", aria_label=_label(state), viewBox=f"0 0 {WIDTH} {HEIGHT}"
    )
    return html(picture, quiet(t("search.chart.legend")))


def name_of(who: str) -> str:
    """What a baseline is called."""
    if who.startswith("parent "):
        return who.removeprefix("parent ").rpartition("/")[2]
    return t(f"search.baseline.{who}")


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """A little below and above all values."""
    room = 0.06 * (max(values) - min(values)) or 0.01
    return min(values) - room, max(values) + room


def _scale(low: float, high: float, begin: float, end: float) -> Place:
    return lambda value: round(begin + (value - low) / (high - low) * (end - begin), 1)


def _axes(low: float, high: float, up: Place) -> Iterator[Markup]:
    yield tag.path(class_="axis", d=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}")
    for value in (low, (low + high) / 2, high):
        yield tag.text(f"{value:.3f}", x=LEFT - 5, y=up(value) + 3, text_anchor="end")
    yield tag.text(t("search.chart.trials"), x=WIDTH - RIGHT, y=HEIGHT - 8, text_anchor="end")


def _baselines(baselines: Mapping[str, float], up: Place) -> Iterator[Markup]:
    """A dashed line each, with its name behind it; names that would overlap move down."""
    before = -float(LINE)
    for who, value in sorted(baselines.items(), key=lambda entry: -entry[1]):
        y = up(value)
        before = max(y + 3, before + LINE)
        yield tag.path(class_="baseline", d=f"M{LEFT} {y}H{WIDTH - RIGHT}")
        name = name_of(who)
        short = name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
        yield tag.text(tag.title(f"{name}: {value:.4f}"), short, x=WIDTH - RIGHT + 5, y=before)


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


def _label(state: SearchState) -> str:
    best = "-" if state.best is None else f"{state.best:.4f}"
    lines = "; ".join(f"{name_of(who)}: {value:.4f}" for who, value in state.baselines.items())
    return t("search.chart.label", count=len(state.values), best=best, baselines=lines)

"""Where a merge comes from, as a small drawing: ancestors, parents, result."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ui.hub.licences import Parent
from ui.languages.translate import t
from ui.widgets.html import text

# Three columns fit the width of a phone, in letters that can be read there.
WIDTH, GAP_X, GAP_Y = 112, 18, 10
LINE, AROUND = 15, 13  # height of a line, and what a box has above and below its lines
LONGEST_LINE, MOST_LINES = 13, 3


def lineage(parents: Sequence[Parent], result: str) -> str:
    """The drawing; each ancestor stands once, and parents that are ancestors of others stay parents."""
    names = [parent.name for parent in parents]
    ancestors = [b for b in dict.fromkeys(b for p in parents for b in p.bases) if b not in names]
    columns = [column for column in (ancestors, names, [result]) if column]
    tall = AROUND + LINE * max(len(_wrapped(name)) for column in columns for name in column)
    height = max(len(column) for column in columns) * (tall + GAP_Y)
    places: dict[tuple[int, str], tuple[float, float]] = {}
    boxes = []
    for x, column in enumerate(columns):
        free = height - len(column) * (tall + GAP_Y)
        for y, name in enumerate(column):
            left, top = x * (WIDTH + GAP_X), free / 2 + y * (tall + GAP_Y) + GAP_Y / 2
            places[x, name] = left, top
            boxes.append(_box(name, left, top, tall, x == len(columns) - 1))
    last = len(columns) - 1
    links = [(places[last - 1, name], places[last, result]) for name in names]
    if ancestors:
        links += [
            (places[0, base], places[1, parent.name])
            for parent in parents
            for base in parent.bases
            if base in ancestors
        ]
    lines = "".join(_link(start, end, tall) for start, end in links)
    width = len(columns) * (WIDTH + GAP_X) - GAP_X
    label = t("lineage.label", result=result, parents=", ".join(names))
    return (
        f'<div class="alloy-scroll" tabindex="0"><svg class="alloy-lineage" role="img" aria-label="{text(label)}" '
        f'style="max-width:{width}px" viewBox="0 0 {width} {height:.0f}">{lines}{"".join(boxes)}</svg></div>'
    )


def _wrapped(name: str) -> list[str]:
    """The last part of a name in lines, broken where words end if there is such a place."""
    short = name.rstrip("/").rpartition("/")[2]
    lines = [""]
    for piece in re.findall(rf"[^-_.]{{0,{LONGEST_LINE - 1}}}[-_.]|[^-_.]{{1,{LONGEST_LINE}}}", short):
        if lines[-1] and len(lines[-1] + piece) > LONGEST_LINE:
            lines.append("")
        lines[-1] += piece
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][: LONGEST_LINE - 1]}…"]
    return lines


def _box(name: str, left: float, top: float, tall: int, is_result: bool) -> str:
    lines, middle = _wrapped(name), left + WIDTH / 2
    first = top + (tall - LINE * len(lines)) / 2 + 11
    spans = "".join(
        f'<tspan x="{middle:.1f}" y="{first + LINE * row:.1f}">{text(line)}</tspan>'
        for row, line in enumerate(lines)
    )
    kind = ' class="result"' if is_result else ""
    return (
        f"<g{kind}><title>{text(name)}</title>"
        f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{WIDTH - 2}" height="{tall}" rx="6"/>'
        f'<text text-anchor="middle">{spans}</text></g>'
    )


def _link(start: tuple[float, float], end: tuple[float, float], tall: int) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + tall / 2, end[0], end[1] + tall / 2
    middle = (x1 + x2) / 2
    return f'<path d="M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"/>'

"""Where a merge comes from, as a small drawing: ancestors, parents, result."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from merging.licences import Parent
from ui.languages.translate import t
from ui.widgets.html import scrolling, tag

# Three columns fit the width of a phone, in letters that can be read there.
WIDTH, GAP_X, GAP_Y = 112, 18, 10
LINE, AROUND = 15, 13  # height of a line, and what a box has above and below its lines
MAX_LINE, MAX_LINES = 13, 3

# A box's left and top edge.
Corner = tuple[float, float]


def lineage(parents: Sequence[Parent], result: str) -> Markup:
    """The drawing; each ancestor is drawn once, and parents that are ancestors of others stay parents."""
    names = [parent.name for parent in parents]
    labels = _labels([*names, *(base for parent in parents for base in parent.bases), result])
    ancestors = [
        base for base in dict.fromkeys(base for p in parents for base in p.bases) if base not in names
    ]
    columns = [column for column in (ancestors, names, [result]) if column]
    tall = AROUND + LINE * max(len(labels[name]) for column in columns for name in column)
    height = max(len(column) for column in columns) * (tall + GAP_Y)
    corners = _corners(columns, tall, height)
    last = len(columns) - 1
    boxes = [
        _box(name, labels[name], corner, tall, column == last) for (column, name), corner in corners.items()
    ]
    links = [(corners[last - 1, name], corners[last, result]) for name in names]
    if ancestors:
        links += [
            (corners[0, base], corners[1, parent.name])
            for parent in parents
            for base in parent.bases
            if base in ancestors
        ]
    width = len(columns) * (WIDTH + GAP_X) - GAP_X
    # A parent that another one was made from is beside it, not before it.
    beside = [
        (corners[last - 1, base], corners[last - 1, parent.name])
        for parent in parents
        for base in parent.bases
        if base in names
    ]
    left = 0 if ancestors or not beside else -GAP_X
    drawing = tag.svg(
        [_link(start, end, tall) for start, end in links],
        [_bracket(start, end, tall) for start, end in beside],
        boxes,
        class_="alloy-lineage", role="img",
        aria_label=t("lineage.label", result=result, parents=", ".join(names)), style=f"max-width:{width - left}px",
        viewBox=f"{left} 0 {width - left} {height:.0f}",
    )  # fmt: skip
    return scrolling(drawing, focusable=True)


def _corners(columns: Sequence[Sequence[str]], tall: int, height: float) -> dict[tuple[int, str], Corner]:
    """Where each box is, by column and name; the boxes of a column are centred."""
    corners: dict[tuple[int, str], Corner] = {}
    for x, column in enumerate(columns):
        free = height - len(column) * (tall + GAP_Y)
        for y, name in enumerate(column):
            corners[x, name] = x * (WIDTH + GAP_X), free / 2 + y * (tall + GAP_Y) + GAP_Y / 2
    return corners


def _labels(names: Sequence[str]) -> dict[str, list[str]]:
    """Each name's lines: its last part, and the owner above it where another name ends in the same."""
    lines = {name: _wrapped(name) for name in names}
    ends = Counter(name.rstrip("/").rpartition("/")[2] for name in lines)
    for name in lines:
        owner, _, short = name.rstrip("/").rpartition("/")
        if owner and ends[short] > 1:
            above = owner.rpartition("/")[2]
            lines[name] = [
                f"{above if len(above) < MAX_LINE else above[: MAX_LINE - 2] + '…'}/",
                *lines[name],
            ]
    return lines


def _wrapped(name: str) -> list[str]:
    """The last part of a name in lines, broken where words end if possible."""
    short = name.rstrip("/").rpartition("/")[2]
    lines = [""]
    for piece in re.findall(rf"[^-_.]{{0,{MAX_LINE - 1}}}[-_.]|[^-_.]{{1,{MAX_LINE}}}", short):
        if lines[-1] and len(lines[-1] + piece) > MAX_LINE:
            lines.append("")
        lines[-1] += piece
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1][: MAX_LINE - 1]}…"]
    return lines


def _box(name: str, lines: Sequence[str], corner: Corner, tall: int, is_result: bool) -> Markup:
    left, top = corner
    middle = left + WIDTH / 2
    first = top + (tall - LINE * len(lines)) / 2 + 11
    spans = [
        tag.tspan(line, x=f"{middle:.1f}", y=f"{first + LINE * row:.1f}") for row, line in enumerate(lines)
    ]
    frame = tag.rect(x=f"{left + 1:.1f}", y=f"{top:.1f}", width=WIDTH - 2, height=tall, rx=6)
    label = tag.text(spans, text_anchor="middle")
    return tag.g(tag.title(name), frame, label, class_="result" if is_result else None)


def _link(start: Corner, end: Corner, tall: int) -> Markup:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + tall / 2, end[0], end[1] + tall / 2
    middle = (x1 + x2) / 2
    return tag.path(d=f"M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}")


def _bracket(start: Corner, end: Corner, tall: int) -> Markup:
    """A link between two boxes of one column, around their left edges."""
    x, y1, y2 = start[0], start[1] + tall / 2, end[1] + tall / 2
    out = x - GAP_X
    return tag.path(d=f"M{x:.1f} {y1:.1f}C{out:.1f} {y1:.1f} {out:.1f} {y2:.1f} {x:.1f} {y2:.1f}")

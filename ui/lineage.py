"""Where a merge comes from, as a small drawing: ancestors, parents, result."""

from __future__ import annotations

from collections.abc import Sequence

from ui.licences import Parent
from ui.markup import text
from ui.texts import t

WIDTH, HEIGHT, GAP_X, GAP_Y = 164, 30, 26, 10
LONGEST_NAME = 20


def lineage(parents: Sequence[Parent], result: str) -> str:
    """The drawing; each ancestor stands once, and parents that are ancestors of others stay parents."""
    names = [parent.name for parent in parents]
    ancestors = [b for b in dict.fromkeys(b for p in parents for b in p.bases) if b not in names]
    columns = [column for column in (ancestors, names, [result]) if column]
    rows = max(len(column) for column in columns)
    height = rows * (HEIGHT + GAP_Y)
    places: dict[tuple[int, str], tuple[float, float]] = {}
    boxes = []
    for x, column in enumerate(columns):
        free = height - len(column) * (HEIGHT + GAP_Y)
        for y, name in enumerate(column):
            left, top = x * (WIDTH + GAP_X), free / 2 + y * (HEIGHT + GAP_Y) + GAP_Y / 2
            places[x, name] = left, top
            boxes.append(_box(name, left, top, x == len(columns) - 1))
    last = len(columns) - 1
    links = [(places[last - 1, name], places[last, result]) for name in names]
    if ancestors:
        links += [
            (places[0, base], places[1, parent.name])
            for parent in parents
            for base in parent.bases
            if base in ancestors
        ]
    lines = "".join(_line(start, end) for start, end in links)
    width = len(columns) * (WIDTH + GAP_X) - GAP_X
    label = t("lineage.label", result=result, parents=", ".join(names))
    return (
        f'<div class="alloy-scroll" tabindex="0"><svg class="alloy-lineage" role="img" aria-label="{text(label)}" '
        f'style="max-width:{width}px" viewBox="0 0 {width} {height:.0f}">{lines}{"".join(boxes)}</svg></div>'
    )


def _box(name: str, left: float, top: float, is_result: bool) -> str:
    short = name.rstrip("/").rpartition("/")[2]
    shown = short if len(short) <= LONGEST_NAME else f"{short[: LONGEST_NAME - 1]}…"
    kind = ' class="result"' if is_result else ""
    return (
        f"<g{kind}><title>{text(name)}</title>"
        f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{WIDTH - 1}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{left + WIDTH / 2:.1f}" y="{top + HEIGHT / 2 + 4:.1f}" text-anchor="middle">{text(shown)}</text></g>'
    )


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    middle = (x1 + x2) / 2
    return f'<path d="M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"/>'

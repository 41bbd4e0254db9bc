"""What each layer gets: every parameter's resolved value over layers and kinds of tensors, as strips of colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from markupsafe import Markup

from merging import Plan, Recipe
from merging.planning.parameters_by_layer import Copy, Row, Value, resolved
from ui.languages.translate import t
from ui.merge.staircase import staircase
from ui.widgets.html import breakable, html, part, quiet, tag


def layers_card(plan: Plan, recipe: Recipe | None) -> Markup:
    """The picture of a good plan, or the line that says why there is none."""
    if not plan.tensors or recipe is None:
        return quiet(t("layers.waiting"))
    # Copies of whole layers are in the staircase.
    pictures = (
        _picture(title, rows)
        for title, rows in resolved(plan)
        if not recipe.slices or not all(isinstance(cell, Copy) for row in rows for cell in row.cells)
    )
    return html(staircase(recipe) if recipe.slices else quiet(t("layers.whole")), pictures)


def _picture(title: str, rows: Sequence[Row]) -> Markup:
    numbers = [cell for row in rows for cell in row.cells if _is_number(cell)]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    lines = [
        [
            tag.span(breakable(row.label), class_="kind"),
            _strip(row, low, high),
            tag.span(_in_words(row), class_="said"),
        ]
        for row in rows
    ]
    last = max((len(row.cells) for row in rows if row.in_layers), default=1) - 1
    ends = [tag.span(t("layers.axis", number=0)), tag.span(last)]
    axis = [tag.span(), tag.span(ends, class_="axis")] if last else None
    return html(part(title), tag.div(lines, axis, class_="alloy-layers"))


def _strip(row: Row, low: float, high: float) -> Markup:
    cells = []
    for number, cell in enumerate(row.cells):
        place = t("layers.axis", number=number) if row.in_layers else row.label
        copied = isinstance(cell, Copy)
        cells.append(
            tag.rect(
                tag.title(f"{place}: {_word(cell)}"), class_="copy" if copied else None,
                style=None if copied else f"opacity:{_strength(cell, low, high):.2f}", x=number, width=1, height=1,
            )
        )  # fmt: skip
    return tag.svg(
        cells, role="img", aria_label=f"{row.label}: {_in_words(row)}", viewBox=f"0 0 {len(row.cells)} 1",
        preserveAspectRatio="none", shape_rendering="crispEdges",
    )  # fmt: skip


def _strength(cell: Value | Copy, low: float, high: float) -> float:
    if isinstance(cell, bool):
        return 1.0 if cell else 0.12
    if not _is_number(cell):
        return 0.12
    return 0.12 + 0.88 * ((cell - low) / (high - low) if high > low else 1.0)


def _is_number(cell: Value | Copy) -> TypeGuard[float]:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _in_words(row: Row) -> str:
    """A row in words: its one value, or its least and its largest."""
    words = [_word(cell) for cell in row.cells]
    if len(set(words)) == 1:
        return words[0]
    numbers = [cell for cell in row.cells if _is_number(cell)]
    if len(numbers) < 2:
        return t("layers.varies", first=words[0], last=words[-1])
    return t("layers.between", low=_word(min(numbers)), high=_word(max(numbers)))


def _word(cell: Value | Copy) -> str:
    if isinstance(cell, Copy):
        return t("layers.copy", model=cell.model)
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"{cell:.4g}" if isinstance(cell, int | float) else str(cell)

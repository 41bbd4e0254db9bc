"""What each layer gets: every parameter's resolved value over layers and kinds of tensors, as strips of colour."""

from __future__ import annotations

from collections.abc import Sequence

from merging import Plan, Recipe
from merging.planning.parameters_by_layer import Copy, Row, Value, resolved, short_name
from ui.languages.translate import t
from ui.widgets.html import breakable, text


def layers_card(plan: Plan, recipe: Recipe | None) -> str:
    """The picture of a good plan, or the line that says why there is none."""
    if not plan.tensors or recipe is None:
        return f'<p class="alloy-quiet">{text(t("layers.waiting"))}</p>'
    parts = [_stack(recipe)]
    for title, rows in resolved(plan):
        parts.append(_picture(title, rows))
    return "".join(parts)


def _stack(recipe: Recipe) -> str:
    """Which layers of which model the layers of the result are, in words: whether the end counts is asked often."""
    if not recipe.slices:
        return f'<p class="alloy-quiet">{text(t("layers.whole"))}</p>'
    lines, below = [], 0
    for part in recipe.slices:
        ranges = [source.layer_range or (0, 0) for source in part.sources]
        length = ranges[0][1] - ranges[0][0]
        if not length:
            continue
        sources = t("layers.and").join(
            t("layers.source", first=start, last=end - 1, model=short_name(source.model.name))
            for source, (start, end) in zip(part.sources, ranges, strict=True)
        )
        lines.append(t("layers.slice", first=below, last=below + length - 1, sources=sources))
        below += length
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<p class="alloy-quiet">{text(t("layers.slices"))}</p><ul class="alloy-lines">{items}</ul>'


def _picture(title: str, rows: Sequence[Row]) -> str:
    numbers = [
        cell
        for row in rows
        for cell in row.cells
        if isinstance(cell, int | float) and not isinstance(cell, bool)
    ]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    lines = "".join(
        f'<span class="kind">{breakable(row.label)}</span>{_strip(row, low, high)}'
        f'<span class="said">{text(_said(row))}</span>'
        for row in rows
    )
    last = max((len(row.cells) for row in rows if row.in_layers), default=1) - 1
    axis = f'<span></span><span class="axis"><span>{text(t("layers.axis", number=0))}</span><span>{last}</span></span>'
    return f'<h3 class="alloy-part">{text(title)}</h3><div class="alloy-layers">{lines}{axis if last else ""}</div>'


def _strip(row: Row, low: float, high: float) -> str:
    cells = []
    for number, cell in enumerate(row.cells):
        place = t("layers.axis", number=number) if row.in_layers else row.label
        said = _word(cell)
        mark = (
            'class="copy"' if isinstance(cell, Copy) else f'style="opacity:{_strength(cell, low, high):.2f}"'
        )
        cells.append(
            f'<rect {mark} x="{number}" width="1" height="1"><title>{text(place)}: {text(said)}</title></rect>'
        )
    return (
        f'<svg role="img" aria-label="{text(row.label)}: {text(_said(row))}" viewBox="0 0 {len(row.cells)} 1" '
        f'preserveAspectRatio="none" shape-rendering="crispEdges">{"".join(cells)}</svg>'
    )


def _strength(cell: Value | Copy, low: float, high: float) -> float:
    if isinstance(cell, bool):
        return 1.0 if cell else 0.12
    if not isinstance(cell, int | float):
        return 0.12
    return 0.12 + 0.88 * ((cell - low) / (high - low) if high > low else 1.0)


def _said(row: Row) -> str:
    """A row in words: its one value, or the first and the last with what lies between."""
    words = [_word(cell) for cell in row.cells]
    if len(set(words)) == 1:
        return words[0]
    numbers = [c for c in row.cells if isinstance(c, int | float) and not isinstance(c, bool)]
    if len(numbers) < 2:
        return t("layers.varies", first=words[0], last=words[-1])
    return t("layers.between", low=_word(min(numbers)), high=_word(max(numbers)))


def _word(cell: Value | Copy) -> str:
    if isinstance(cell, Copy):
        return t("layers.copy", model=cell.model)
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"{cell:.4g}" if isinstance(cell, int | float) else str(cell)

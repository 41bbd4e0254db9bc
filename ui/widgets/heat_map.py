"""Figures by layer and kind of tensor, as strips of colour with their ends in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ui.languages.translate import t
from ui.widgets.html import breakable, text

Cells = Sequence[float | None]


def heat_map(title: str, rows: Mapping[str, Cells]) -> str:
    """One figure of every kind of tensor; the deepest colour is the largest value of the whole picture.

    Args:
        title: what the figure is
        rows: by kind, a value for each layer; None: not known
    """
    known = [value for cells in rows.values() for value in cells if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    lines = "".join(_line(kind, cells, low, high) for kind, cells in rows.items() if any_known(cells))
    last = max(map(len, rows.values())) - 1
    axis = f'<span></span><span class="axis"><span>{text(t("layers.axis", number=0))}</span><span>{last}</span></span>'
    return f'<h3 class="alloy-part">{text(title)}</h3><div class="alloy-layers">{lines}{axis if last else ""}</div>'


def any_known(cells: Cells) -> bool:
    return any(value is not None for value in cells)


def _line(kind: str, cells: Cells, low: float, high: float) -> str:
    label = kind.rpartition(".*.")[2].removesuffix(".weight")
    known = [value for value in cells if value is not None]
    ends = dict.fromkeys(f"{value:.3g}" for value in (min(known), max(known)))
    first, *more = ends
    said = t("layers.between", low=first, high=more[0]) if more else first
    marks = "".join(
        f'<rect style="opacity:{_strength(value, low, high):.2f}" x="{number}" width="1" height="1">'
        f"<title>{text(t('layers.axis', number=number))}: {value:.4g}</title></rect>"
        for number, value in enumerate(cells)
        if value is not None
    )
    return (
        f'<span class="kind">{breakable(label)}</span><svg role="img" aria-label="{text(label)}: {text(said)}" '
        f'viewBox="0 0 {len(cells)} 1" preserveAspectRatio="none" shape-rendering="crispEdges">{marks}</svg>'
        f'<span class="said">{text(said)}</span>'
    )


def _strength(value: float, low: float, high: float) -> float:
    return 0.12 + 0.88 * ((value - low) / (high - low) if high > low else 1.0)

"""Figures by layer and kind of tensor, drawn as strips of colour, each with its range in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ui.languages.translate import t
from ui.widgets.html import breakable, html, part, tag

Cells = Sequence[float | None]


def heat_map(title: str, rows: Mapping[str, Cells]) -> Markup:
    """One figure of every kind of tensor; the deepest colour is the largest value in the picture.

    Args:
        title: what the figure is
        rows: by kind, a value for each layer; None: not known
    """
    known = [value for cells in rows.values() for value in cells if value is not None]
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    strips = [_strip(kind, cells, low, high) for kind, cells in rows.items() if any_known(cells)]
    return html(part(title), tag.div(strips, _axis(max(map(len, rows.values())) - 1), class_="alloy-layers"))


def any_known(cells: Cells) -> bool:
    return any(value is not None for value in cells)


def _axis(last: int) -> Markup | None:
    if not last:
        return None
    ends = tag.span(t("layers.axis", number=0)), tag.span(last)
    return html(tag.span(), tag.span(ends, class_="axis"))


def _strip(kind: str, cells: Cells, low: float, high: float) -> Markup:
    label = kind.rpartition(".*.")[2].removesuffix(".weight")
    known = [value for value in cells if value is not None]
    ends = dict.fromkeys(f"{value:.3g}" for value in (min(known), max(known)))
    first, *more = ends
    words = t("layers.between", low=first, high=more[0]) if more else first
    marks = [
        tag.rect(
            tag.title(f"{t('layers.axis', number=number)}: {value:.4g}"),
            style=f"opacity:{_strength(value, low, high):.2f}", x=number, width=1, height=1,
        )
        for number, value in enumerate(cells)
        if value is not None
    ]  # fmt: skip
    picture = tag.svg(
        marks, role="img", aria_label=f"{label}: {words}", viewBox=f"0 0 {len(cells)} 1",
        preserveAspectRatio="none", shape_rendering="crispEdges",
    )  # fmt: skip
    return html(tag.span(breakable(label), class_="kind"), picture, tag.span(words, class_="said"))


def _strength(value: float, low: float, high: float) -> float:
    return 0.12 + 0.88 * ((value - low) / (high - low) if high > low else 1.0)

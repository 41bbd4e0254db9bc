"""Where the layers of a result come from, as a picture: a step for each layer, as high as it is in its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from merging import Recipe
from merging.planning.parameters_by_layer import last_part
from ui.languages.translate import t
from ui.widgets.html import folded, html, quiet, tag

# Of a result with fewer lines than this, they are shown; else they are folded.
FEW = 5
COLOURS = 4


@dataclass(frozen=True)
class Stair:
    """The layers that a source gives.

    Args:
        below: layers of the result before them
        model: its name
        start, end: the layers; the end is not included
        place, sources: which of the sources of the same layers it is, and of how many
    """

    below: int
    model: str
    start: int
    end: int
    place: int
    sources: int


def stairs_of(recipe: Recipe) -> list[Stair]:
    """The stairs of a recipe with slices, from the first layer of the result."""
    found: list[Stair] = []
    below = 0
    for piece in recipe.slices:
        ranges = [source.layer_range or (0, 0) for source in piece.sources]
        for place, (source, (start, end)) in enumerate(zip(piece.sources, ranges, strict=True)):
            if end > start:
                found.append(Stair(below, source.model.name, start, end, place, len(ranges)))
        below += ranges[0][1] - ranges[0][0]
    return found


def staircase(recipe: Recipe) -> Markup:
    """The picture, and the same in words."""
    lines = _lines(stairs_of(recipe))
    listed = tag.ul(map(tag.li, lines), class_="alloy-lines")
    words = listed if len(lines) < FEW else folded(t("layers.list", count=len(lines)), listed)
    return html(stairs_picture(recipe), words, quiet(t("layers.slices")))


def stairs_picture(recipe: Recipe) -> Markup:
    """The picture alone, with what its colours and directions mean."""
    stairs = stairs_of(recipe)
    models = list(dict.fromkeys(stair.model for stair in stairs))
    colours = {model: f"m{number % COLOURS}" for number, model in enumerate(models)}
    wide = max((stair.below + stair.end - stair.start for stair in stairs), default=1)
    tall = max((stair.end for stair in stairs), default=1)
    steps = [
        tag.rect(
            class_=colours[stair.model], height=1, width=f"{1 / stair.sources:.3f}", y=tall - 1 - layer,
            x=f"{stair.below + layer - stair.start + stair.place / stair.sources:.3f}",
        )
        for stair in stairs
        for layer in range(stair.start, stair.end)
    ]  # fmt: skip
    drawing = tag.svg(
        steps, class_="alloy-stairs", role="img", aria_label=t("layers.stairs"), viewBox=f"0 0 {wide} {tall}",
        preserveAspectRatio="none",
    )  # fmt: skip
    legend = [tag.span(tag.i(class_=colours[model]), last_part(model)) for model in models]
    return html(drawing, tag.p(legend, class_="alloy-legend"), quiet(t("layers.stairs.legend")))


def _lines(stairs: Sequence[Stair]) -> list[str]:
    """A line for each slice."""
    slices: dict[int, list[Stair]] = {}
    for stair in stairs:
        slices.setdefault(stair.below, []).append(stair)
    lines = []
    for below, parts in slices.items():
        last = below + parts[0].end - parts[0].start - 1
        sources = t("layers.and").join(
            t(
                "layers.source.one" if part.end - part.start == 1 else "layers.source", first=part.start,
                last=part.end - 1, model=last_part(part.model),
            )
            for part in parts
        )  # fmt: skip
        key = "layers.slice.one" if last == below else "layers.slice"
        lines.append(t(key, first=below, last=last, sources=sources))
    return lines

"""What a recipe does, in short: its method, its models, and how its numbers run over the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from checkpoints.problems import ProblemError
from checkpoints.yaml import load
from merging import METHODS, Recipe, read_recipe
from ui.recipe.drawn_curves import LINES, Points, drawn_curves

MOST_MODELS, LONGEST_NAME = 6, 200
# A longer recipe is not sketched: it is shown as text.
LONGEST_RECIPE = 20_000
# Layers of a result that are drawn as a staircase.
MOST_LAYERS = 400
EXPERTS = "experts"
# Where a recipe names a model.
_NAMING = ("base_model", "model", "source_model")


@dataclass(frozen=True)
class Sketch:
    """A recipe in short.

    Args:
        method: the name of its merge method, or EXPERTS
        models: that it names, in order
        curve: the name of the parameter whose curve is drawn; empty if none varies
        lines: of that curve, by name, each point from the first layer to the last, from 0 (lowest) to 1
        stack: the recipe, if its layers make a picture
    """

    method: str
    models: tuple[str, ...]
    curve: str = ""
    lines: Mapping[str, Points] = field(default_factory=dict)
    stack: Recipe | None = None

    @property
    def title(self) -> str:
        """The method's name for people; empty for a mixture of experts, whose name depends on the language."""
        return METHODS[self.method].title if self.method in METHODS else ""


def sketch(recipe: str) -> Sketch | None:
    """A recipe in short; None if it is not one that can be read.

    Recipes of several documents, whose models are made by other documents, have none.
    """
    if len(recipe) > LONGEST_RECIPE:
        return None
    try:
        data = load(recipe)
        if not isinstance(data, dict):
            return None
        if EXPERTS in data:
            return Sketch(EXPERTS, _models(data))
        read = read_recipe(recipe)
        name, lines = _curve(recipe, data)
    except ProblemError:
        return None
    return Sketch(read.merge_method, _models(data), name, lines, read if _is_stack(read) else None)


def _models(data: object) -> tuple[str, ...]:
    """The models, each adapter as one of its own."""
    found = (part.strip()[:LONGEST_NAME] for name in _named(data) for part in name.split("+") if part.strip())
    return tuple(dict.fromkeys(found))[:MOST_MODELS]


def _named(part: object) -> Iterator[str]:
    """Names of models, the base model first."""
    if isinstance(part, dict):
        for key in sorted(part, key=lambda key: key != "base_model"):
            value = part[key]
            if key in _NAMING and isinstance(value, str):
                yield value
            else:
                yield from _named(value)
    elif isinstance(part, list):
        for value in part:
            yield from _named(value)


def _curve(recipe: str, data: Mapping[str, Any]) -> tuple[str, dict[str, Points]]:
    """The first curve that varies, scaled to its range."""
    curves = drawn_curves(_without_slice(recipe, data))
    curve = next((curve for curve in curves if curve.varies), None)
    if curve is None:
        return "", {}
    low, high = curve.ends
    scaled = {
        name: tuple((point - low) / (high - low) if high > low else 0.5 for point in points)
        for name in LINES
        if (points := curve.lines[name]) is not None
    }
    return curve.parameter.name, scaled


def _without_slice(recipe: str, data: Mapping[str, Any]) -> str:
    """A recipe of one slice as one of models, whose curves are drawn; any other as it is."""
    slices = data.get("slices")
    # What aliases stand for would be written out.
    if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], dict) or "&" in recipe:
        return recipe
    sources = slices[0].get("sources")
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        return recipe
    models = [{key: value for key, value in source.items() if key != "layer_range"} for source in sources]
    own = {key: value for key, value in slices[0].items() if key == "parameters"}
    rest = {key: value for key, value in data.items() if key != "slices"}
    return str(yaml.safe_dump({**rest, **own, "models": models}, sort_keys=False))


def _is_stack(recipe: Recipe) -> bool:
    """Whether the layers of a result come from other places than their own."""
    ranges = [source.layer_range for piece in recipe.slices for source in piece.sources]
    layers = sum(end - start for start, end in (one for one in ranges if one))
    return len(recipe.slices) > 1 and 0 < layers <= MOST_LAYERS

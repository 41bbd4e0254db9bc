"""A space of recipes: a recipe in which ranges or choices take the place of some values.

    weight: {search: [0, 1.2], start: 0.5}              a number in a range
    weight: {search: [0, 1.2], start: 0.5, anchors: 3}  a gradient of three numbers over the layers
    weight: [{filter: mlp, search: [0, 1]}, {search: [0, 1]}]
    merge_method: {search: [ties, dare_ties]}           a choice
    use: {search: [0, 1]}                               of a model: whether it takes part

A space and a point make a recipe. `searching.space_reader` reads a space from text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from merging.methods import METHODS
from merging.methods.parameters import Scalar
from merging.recipe.reader import read_nodes
from merging.recipe.recipe import ModelReference, Recipe
from searching.goals import Settings, Way

Point = Mapping[str, Scalar]
# Digits after the decimal point of a searched number.
DIGITS = 6


@dataclass(frozen=True)
class Axis:
    """One value that may change.

    Args:
        name: unique in its space, such as `org/math.weight`
        parameter: the key in the recipe, such as `weight`
        start: the value of the recipe as it was given
        low, high: the ends of a range, both included; None for a choice
        choices: the values of a choice
        integer: whether only whole numbers are in the range
        model: whose value it is, as the recipe writes it; "" for a value of all models
    """

    name: str
    parameter: str
    start: Scalar
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] = ()
    integer: bool = False
    model: str = ""

    def holds(self, value: Scalar) -> bool:
        """Whether a value is on the axis."""
        if self.choices:
            return value in self.choices
        assert self.low is not None and self.high is not None
        return not isinstance(value, str) and self.low <= value <= self.high

    def rounded(self, value: Scalar) -> Scalar:
        """The value as it is written into a recipe."""
        if self.choices:
            return value
        return round(float(value)) if self.integer else round(float(value), DIGITS)

    def described(self) -> str:
        if self.choices:
            return " | ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Marked:
    """Where in the text a value may change.

    Args:
        node: the mapping with the key `search`
        axes: names of the axes; one, or as many as there are anchors
        filter: part of a tensor's name that the value is for
        is_gradient: whether the value is a list of anchors
    """

    node: yaml.MappingNode
    axes: tuple[str, ...]
    filter: yaml.Node | None = None
    is_gradient: bool = False


@dataclass(frozen=True)
class Space:
    """A recipe with values that may change.

    Args:
        text: it was read from
        axes: the values
        settings: of the `search:` block
        documents: the YAML nodes of the recipe, without that block
        marked: the places of the axes, in these nodes
    """

    text: str
    axes: tuple[Axis, ...]
    settings: Settings
    documents: tuple[yaml.Node, ...]
    marked: tuple[Marked, ...]

    @property
    def start(self) -> dict[str, Scalar]:
        """The point of the recipe as it was given."""
        return {axis.name: axis.start for axis in self.axes}

    def searched_by(self, way: Way) -> Space:
        """The same space, searched in another way; it is another search."""
        return replace(
            self, settings=replace(self.settings, by=way), text=f"{self.text.rstrip()}\n# by: {way}\n"
        )

    def holds(self, point: Point) -> bool:
        return all(axis.holds(point[axis.name]) for axis in self.axes)

    def recipe(self, point: Point) -> Recipe:
        """The recipe of a point.

        Raises:
            RecipeError: there is none, for example because too few models take part.
        """
        filled = _Filled(self, {axis.name: axis.rounded(point[axis.name]) for axis in self.axes})
        nodes = [filled.node(document) for document in self.documents]
        return read_nodes(nodes, yaml.serialize_all(nodes, allow_unicode=True, width=110))

    def average(self) -> Recipe:
        """The plain average: every model takes part with the same weight, all else as in the start."""
        return self.recipe(self.average_point())

    def average_point(self) -> dict[str, Scalar]:
        """Its point, which may lie outside the ranges."""
        models = len({axis.model for axis in self.axes if axis.model}) or 1
        start = self.recipe(_all_used(self))
        others = [reference for reference in merged_models(start) if reference != start.base_model]
        models = len(others) or models
        point = _all_used(self)
        for axis in self.axes:
            if axis.parameter == "weight" and not axis.choices:
                point[axis.name] = round(1 / models, DIGITS)
            elif axis.parameter == "t" and not axis.choices:
                point[axis.name] = 0.5
        return point

    def weighted_models(self) -> tuple[str, ...]:
        """The parents whose weights are numbers that may change."""
        found = {axis.model for axis in self.axes if axis.parameter == "weight" and not axis.choices}
        return tuple(name for name in self.parents() if name in found)

    def weighted(self, weights: Mapping[str, float]) -> dict[str, Scalar]:
        """The point where models have these weights, or those nearest to them in their ranges; all else as in the
        start, with every model taking part.

        Args:
            weights: by model
        """
        point = _all_used(self)
        for axis in self.axes:
            if (
                axis.parameter == "weight"
                and axis.model in weights
                and axis.low is not None
                and axis.high is not None
            ):
                point[axis.name] = axis.rounded(min(max(weights[axis.model], axis.low), axis.high))
        return point

    def parents(self) -> dict[str, Recipe]:
        """A recipe that is one parent alone, for each model that may take part and for the base, by its name."""
        start = self.recipe(_all_used(self))
        found = {}
        for reference in merged_models(start):
            one = replace(start.models[0] if start.models else next(iter(start.sources())), model=reference)
            one = replace(one, parameters={}, layer_range=None)
            found[str(reference)] = replace(
                start,
                merge_method="passthrough",
                models=(one,),
                slices=(),
                modules=(),
                base_model=None,
                parameters={},
                text=f"merge_method: passthrough\nmodels:\n  - model: {reference}\n",
            )
        return found

    def base(self) -> str:
        """The name of the base model, or of the first model if there is none."""
        start = self.recipe(_all_used(self))
        return str(start.base_model or merged_models(start)[0])


def merged_models(recipe: Recipe) -> tuple[ModelReference, ...]:
    """The models that are merged, the base among them, each once."""
    named = [recipe.base_model, *(part.base_model for part in recipe.all_slices())]
    named += [source.model for source in recipe.sources()]
    return tuple(dict.fromkeys(model for model in named if model))


def _all_used(space: Space) -> dict[str, Scalar]:
    """The start, with every model taking part."""
    used = {axis.name: True for axis in space.axes if axis.parameter == "use"}
    return {**space.start, **used}


class _Filled:
    """Copies YAML nodes with the values of a point in the places of the axes."""

    def __init__(self, space: Space, point: Point):
        self.point = point
        self.marked = {id(marked.node): marked for marked in space.marked}
        self.methods = tuple(
            str(choice) for axis in space.axes if axis.parameter == "merge_method" for choice in axis.choices
        )
        self.method = ""

    def node(self, node: yaml.Node) -> yaml.Node:
        if id(node) in self.marked:
            return self.value(self.marked[id(node)])
        if isinstance(node, yaml.SequenceNode):
            entries = [self.node(item) for item in node.value if self.takes_part(item)]
            return yaml.SequenceNode(node.tag, entries, node.start_mark, node.end_mark, node.flow_style)
        if isinstance(node, yaml.MappingNode):
            return yaml.MappingNode(
                node.tag, self.fields(node), node.start_mark, node.end_mark, node.flow_style
            )
        return node

    def fields(self, node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
        named = next((value for key, value in node.value if key.value == "merge_method"), None)
        if named is not None:
            self.method = self.node(named).value
        kept = []
        for key, value in node.value:
            if key.value == "use" and _is_model(node):
                continue
            filled = self.node(value)
            if key.value == "parameters" and isinstance(filled, yaml.MappingNode):
                filled.value = [(name, one) for name, one in filled.value if self.is_of_method(name.value)]
            kept.append((key, filled))
        return kept

    def is_of_method(self, parameter: str) -> bool:
        """Whether a parameter stays: one that only other methods of the choice have is left out."""
        has = [
            method for method in self.methods if method in METHODS and METHODS[method].parameter(parameter)
        ]
        return not has or self.method in has

    def takes_part(self, node: yaml.Node) -> bool:
        """Whether a model's entry stays in its list."""
        if not _is_model(node):
            return True
        used = next((value for key, value in node.value if key.value == "use"), None)
        return used is None or self.node(used).value not in ("false", "0")

    def value(self, marked: Marked) -> yaml.Node:
        start, end = marked.node.start_mark, marked.node.end_mark
        scalars = [_scalar(self.point[name], marked.node) for name in marked.axes]
        tag = "tag:yaml.org,2002:seq"
        found = yaml.SequenceNode(tag, scalars, start, end, True) if marked.is_gradient else scalars[0]
        if marked.filter is None:
            return found
        keys = [_scalar(name, marked.node) for name in ("filter", "value")]
        pairs = list(zip(keys, (marked.filter, found), strict=True))
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, start, end, True)


def _is_model(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and any(key.value == "model" for key, _ in node.value)


def _scalar(value: Scalar, place: yaml.Node) -> Any:
    made: Any = yaml.representer.SafeRepresenter().represent_data(value)
    made.start_mark, made.end_mark = place.start_mark, place.end_mark
    return made

"""The numbers of a recipe that a slider can change, and the recipe after a change.

An edit leaves every other character, and every comment, alone where possible; a text that would not mean the same after
it (an alias that stands for two places) is written again from its data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from checkpoints.yaml import YamlError, compose, load
from merging import METHODS, MergeMethod, Parameter
from merging.recipe.dump import dump
from merging.recipe.edits import end_of
from ui.languages.translate import t

RecipePath = tuple[str | int, ...]


@dataclass(frozen=True)
class RecipeSlider:
    """A slider for one number that a recipe gives, or leaves at its default.

    Args:
        place: its path in the recipe: keys and indices, from the outermost inwards
        method: of the recipe
        parameter: as the method declares it
        label: for people
        value: now; if the recipe gives several numbers, their mean
        is_curve: it moves several numbers as a whole, and keeps their shape
    """

    place: RecipePath
    method: MergeMethod
    parameter: Parameter
    label: str
    value: float
    is_curve: bool = False

    @property
    def key(self) -> str:
        """Its key in a menu."""
        return "/".join(map(str, (*self.place, "~") if self.is_curve else self.place))

    @property
    def ends(self) -> tuple[float, float]:
        """The slider's ends: as declared, extended to the recipe's value."""
        low, high = self.parameter.low or 0.0, 1.0 if self.parameter.high is None else self.parameter.high
        return min(low, self.value), max(high, self.value)


def sliders_of(recipe: str) -> tuple[RecipeSlider, ...]:
    """The sliders of a recipe: first for what it says, then for what it leaves at its default.

    Values by layer or by tensor get one slider for all, and one for each that is a single number.
    """
    data = recipe_data(recipe)
    method = METHODS.get(str(data.get("merge_method"))) if isinstance(data, dict) else None
    if method is None:
        return ()
    given = list(_given(data, method, (), ""))
    named = {slider.parameter.name for slider in given}
    defaults = [
        RecipeSlider(("parameters", p.name), method, p, p.name, float(p.default))
        for p in method.parameters
        if is_number(p) and p.default is not None and p.name not in named
    ]
    return tuple({slider.key: slider for slider in (*given, *defaults)}.values())


def with_value(recipe: str, slider: RecipeSlider, value: float) -> str:
    """The recipe with another value at a slider."""
    written: Any = round(value) if slider.parameter.kind == "integer" else round(value, 6)
    data = recipe_data(recipe)
    wanted = with_entry(data, slider.place, written)
    if wanted == data:
        return recipe
    edited = _edited(recipe, slider.place, str(written))
    return edited if edited is not None and recipe_data(edited) == wanted else dump(wanted)


def changed_sliders(before: str, after: str) -> tuple[RecipeSlider, ...]:
    """The sliders of the second recipe whose value differs from the first; values by layer are not compared."""
    old, new = recipe_data(before), recipe_data(after)
    known = {
        slider.key: slider.value
        for slider in sliders_of(before)
        if not isinstance(entry_at(old, slider.place), list)
    }
    single = (slider for slider in sliders_of(after) if not isinstance(entry_at(new, slider.place), list))
    return tuple(slider for slider in single if known.get(slider.key) != slider.value)


def _given(node: Any, method: MergeMethod, place: RecipePath, owner: str) -> Iterator[RecipeSlider]:
    """The sliders of a part of a recipe; `owner` is the model or slice that it belongs to."""
    if isinstance(node, list):
        for number, part in enumerate(node):
            whose = t("slider.slice", number=number + 1) if place[-1:] == ("slices",) else owner
            yield from _given(part, method, (*place, number), whose)
    if not isinstance(node, dict):
        return
    if isinstance(name := node.get("model"), str):
        owner = name.rpartition("/")[2] or name
    for key, part in node.items():
        if key != "parameters":
            yield from _given(part, method, (*place, str(key)), owner)
            continue
        for parameter in method.parameters:
            if isinstance(part, dict) and parameter.name in part and is_number(parameter):
                here = (*place, key, parameter.name)
                label = t("methods.of", name=parameter.name, model=owner) if owner else parameter.name
                yield from _sliders(part[parameter.name], method, parameter, here, label)


def _sliders(
    setting: Any, method: MergeMethod, parameter: Parameter, place: RecipePath, label: str
) -> Iterator[RecipeSlider]:
    if _is_one(setting):
        yield RecipeSlider(place, method, parameter, label, float(setting))
        return
    numbers = list(numbers_of(setting))
    if not numbers:
        return
    yield RecipeSlider(
        place, method, parameter, t("slider.whole", name=label), round(sum(numbers) / len(numbers), 6)
    )
    for number, choice in enumerate(setting):
        if isinstance(choice, dict) and _is_one(choice.get("value")):
            tensors = choice.get("filter")
            rest = tensors in (None, "*")
            name = (
                t("recipe.rest", name=label)
                if rest
                else t("slider.filter", name=label, tensors=str(tensors)[:40])
            )
            yield RecipeSlider((*place, number, "value"), method, parameter, name, float(choice["value"]))


def numbers_of(setting: Any) -> Iterator[float]:
    """The numbers of a setting: of a gradient, and of the values of filters."""
    if _is_one(setting):
        yield float(setting)
    elif isinstance(setting, list):
        for part in setting:
            yield from numbers_of(part.get("value") if isinstance(part, dict) else part)


def is_number(parameter: Parameter) -> bool:
    """Whether a parameter has a slider of numbers."""
    return parameter.kind in ("number", "integer") and parameter.low is not None


def _is_one(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def entry_at(data: Any, place: RecipePath) -> Any:
    """What is at a place of a recipe's data; None where there is nothing."""
    for step in place:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def recipe_data(recipe: str) -> Any:
    """What a recipe's text says, as plain data; None if it is no YAML."""
    try:
        return load(recipe)
    except YamlError:
        return None


def with_entry(data: Any, place: RecipePath, value: Any) -> Any:
    """Plain data with another value at a place; a missing mapping on the way is added."""
    if not place:
        return value
    step, *rest = place
    if isinstance(data, list) and isinstance(step, int):
        return [with_entry(part, tuple(rest), value) if i == step else part for i, part in enumerate(data)]
    held = data if isinstance(data, dict) else {}
    return held | {step: with_entry(held.get(step), tuple(rest), value)}


def _edited(recipe: str, place: RecipePath, written: str) -> str | None:
    """The text with another value at a place; None if it cannot be edited in place."""
    node: yaml.Node | None = compose(recipe)
    key: yaml.Node | None = None
    for depth, step in enumerate(place):
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            key, node = None, node.value[step]
        elif isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == step), None)
            if found is None:
                return _added(recipe, node, place[depth:], written)
            key, node = found
    if node is None or key is None:
        return None
    return f"{recipe[: key.end_mark.index]}: {written}{recipe[end_of(node) :]}"


def _added(recipe: str, node: yaml.MappingNode, missing: Sequence[str | int], written: str) -> str | None:
    """The text with one more entry: in a block of the recipe, or at its end."""
    if node.flow_style:
        return None
    if len(missing) == 1 and node.value:
        start = node.value[0][0].start_mark
        indent = " " * start.column
        return f"{recipe[: start.index]}{missing[0]}: {written}\n{indent}{recipe[start.index :]}"
    if len(missing) == 2:
        return f"{recipe.rstrip()}\n{missing[0]}:\n  {missing[1]}: {written}\n"
    return None

"""Values by layer as a curve that moves as a whole: its shape stays, its mean changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from merging.recipe.patch import patched, same
from ui.languages.translate import t
from ui.recipe.sliders import (
    RecipeSlider,
    entry_at,
    is_number,
    numbers_of,
    recipe_data,
    sliders_of,
    with_entry,
    with_value,
)

# Halvings of an interval in which the shift is searched for.
STEPS = 60


def curve_sliders(recipe: str) -> tuple[RecipeSlider, ...]:
    """A slider for the mean of each curve, then those of `sliders_of`, where one number takes the place of a curve."""
    found = sliders_of(recipe)
    data = recipe_data(recipe)
    curves = [
        replace(slider, label=t("slider.curve", name=_name(slider)), is_curve=True)
        for slider in found
        if is_number(slider.parameter) and isinstance(entry_at(data, slider.place), list)
    ]
    places = {curve.place for curve in curves}
    named = (
        replace(slider, label=t("slider.replaces", name=slider.label)) if slider.place in places else slider
        for slider in found
    )
    return (*curves, *named)


def tuned(recipe: str, slider: RecipeSlider, value: float, first: str) -> str:
    """The recipe with another value at a slider of `curve_sliders`.

    Args:
        first: the recipe before it was tuned, whose curve keeps its shape where values were cut off at the range's ends
    """
    if not slider.is_curve:
        return with_value(recipe, slider, value)
    data = recipe_data(recipe)
    now, before = entry_at(data, slider.place), entry_at(recipe_data(first), slider.place)
    curve = before if isinstance(before, list) and same(now, shifted(before, slider, slider.value)) else now
    return patched(recipe, with_entry(data, slider.place, shifted(curve, slider, value)))


def changed_values(first: str, recipe: str) -> tuple[RecipeSlider, ...]:
    """The sliders of the second recipe whose value differs from the first: a curve that moved as a whole is one."""
    before, after = recipe_data(first), recipe_data(recipe)
    known = {slider.key: slider.value for slider in curve_sliders(first)}
    found: list[RecipeSlider] = []
    for slider in curve_sliders(recipe):
        old, new = entry_at(before, slider.place), entry_at(after, slider.place)
        if any(one.is_curve and one.place == slider.place[: len(one.place)] for one in found):
            continue
        if slider.is_curve:
            if isinstance(old, list) and not same(old, new) and same(new, shifted(old, slider, slider.value)):
                found.append(slider)
        elif not isinstance(new, list) and known.get(slider.key) != slider.value:
            found.append(slider)
    return tuple(found)


def shifted(curve: list[Any], slider: RecipeSlider, mean: float) -> list[Any]:
    """A curve of this mean: all its numbers are moved by as much, and cut off at the ends of the range."""
    numbers = list(numbers_of(curve))
    low, high = (None, None) if slider.parameter.beyond else (slider.parameter.low, slider.parameter.high)

    def moved(number: float, by: float) -> float:
        number += by
        number = number if low is None else max(number, low)
        return number if high is None else min(number, high)

    least, most = mean - max(numbers), mean - min(numbers)
    for _ in range(STEPS):
        by = (least + most) / 2
        if sum(moved(number, by) for number in numbers) < mean * len(numbers):
            least = by
        else:
            most = by
    by = (least + most) / 2
    found: list[Any] = _each(curve, lambda number: round(moved(number, by), 6))
    return found


def _each(setting: Any, change: Any) -> Any:
    """A setting with each of its numbers changed."""
    if isinstance(setting, list):
        return [_each(part, change) for part in setting]
    if isinstance(setting, dict):
        return {key: _each(part, change) if key == "value" else part for key, part in setting.items()}
    return change(setting) if isinstance(setting, int | float) and not isinstance(setting, bool) else setting


def _name(slider: RecipeSlider) -> str:
    """The parameter's name, of a model or a slice if it is one's own."""
    return slider.label.partition(": ")[0]

"""Values by layer as lines that are drawn: one for attention, one for MLP, and one for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.yaml import load
from merging import MergeMethod, Parameter
from merging.recipe.patch import patched
from ui.languages.translate import t
from ui.recipe.form_state import NotShown, Setting, by_tensor, read, split_by_tensor
from ui.recipe.sliders import RecipePath, entry_at, is_number, with_entry

REST, ATTENTION, MLP = "rest", "attention", "mlp"
LINES = (REST, ATTENTION, MLP)
# Points of a line, unless the recipe gives it more.
POINTS, MOST_POINTS = 5, 33

Points = tuple[float, ...]


@dataclass(frozen=True)
class DrawnCurve:
    """A parameter's lines.

    Args:
        place: its path in the recipe
        parameter: as the method declares it
        label: for people
        setting: as the recipe gives it, or its default
        lines: by name, each point from the first layer to the last; a line that the recipe does not give follows the
            rest, and is None
    """

    place: RecipePath
    parameter: Parameter
    label: str
    setting: Setting
    lines: Mapping[str, Points | None]

    @property
    def key(self) -> str:
        """Its key on the page."""
        return "/".join(map(str, self.place))

    @property
    def rest(self) -> Points:
        """Where everything else is: a curve always has this line."""
        points = self.lines[REST]
        return points if points is not None else (self.parameter.initial,) * POINTS

    @property
    def varies(self) -> bool:
        """Whether one number says less than the lines."""
        return isinstance(self.setting, list)

    @property
    def ends(self) -> tuple[float, float]:
        """The range that is drawn: as declared, extended to what the recipe gives."""
        values = [value for points in self.lines.values() for value in points or ()]
        low, high = self.parameter.low or 0.0, 1.0 if self.parameter.high is None else self.parameter.high
        return min([low, *values]), max([high, *values])


def drawn_curves(recipe: str) -> tuple[DrawnCurve, ...]:
    """The curves of a recipe that the form shows; a setting of other filters, or of too many points, has none."""
    try:
        method = read(recipe).merge_method
    except NotShown:
        return ()
    data = load(recipe)
    curves = []
    for place, parameter, owner in _places(data, method):
        setting = _setting_at(data, place, parameter)
        lines = None if setting is None else _lines(setting)
        if lines is not None:
            label = t("methods.of", name=parameter.name, model=owner) if owner else parameter.name
            curves.append(DrawnCurve(place, parameter, label, setting, lines))
    return tuple(curves)


def with_line(recipe: str, key: str, line: str, points: Sequence[Any] | None) -> str | None:
    """The recipe after a line of a curve was drawn; None if it has no such curve, or the points are no numbers.

    Args:
        key: of the curve
        line: one of LINES
        points: from the first layer to the last; None lets the line follow the rest
    """
    curve = next((curve for curve in drawn_curves(recipe) if curve.key == key), None)
    if curve is None or line not in LINES or (points is None and line == REST):
        return None
    if points is not None and not _are_points(points):
        return None
    parts: dict[str, Setting] = dict(zip(LINES, split_by_tensor(curve.setting), strict=True))
    parts[line] = None if points is None else _written([_within(curve.parameter, point) for point in points])
    setting = by_tensor(*(parts[name] for name in LINES))
    return patched(recipe, with_entry(load(recipe), curve.place, setting))


def _places(data: Any, method: MergeMethod) -> Iterator[tuple[RecipePath, Parameter, str]]:
    """Where the recipe has, or may have, a number of its own, and the model that it belongs to."""
    drawn = [
        parameter for parameter in method.parameters if parameter.kind == "number" and is_number(parameter)
    ]
    for parameter in drawn:
        if not parameter.per_model:
            yield ("parameters", parameter.name), parameter, ""
    for number, entry in enumerate(data["models"]):
        name = str(entry["model"])
        if method.may_subtract and name == str(data.get("base_model")):
            continue
        for parameter in drawn:
            if parameter.per_model:
                place = ("models", number, "parameters", parameter.name)
                yield place, parameter, name.rpartition("/")[2] or name


def _setting_at(data: Any, place: RecipePath, parameter: Parameter) -> Setting:
    """What holds at a place: written there, or for all models, or by default."""
    for found in (entry_at(data, place), entry_at(data, ("parameters", parameter.name))):
        if found is not None:
            return found
    return None if parameter.optional else parameter.initial


def _lines(setting: Setting) -> dict[str, Points | None] | None:
    """The lines of a setting; None if they cannot be drawn."""
    parts = split_by_tensor(setting)
    lines = {name: _points(part) for name, part in zip(LINES, parts, strict=True)}
    if any(part is not None and lines[name] is None for name, part in zip(LINES, parts, strict=True)):
        return None
    return lines


def _points(setting: Setting) -> Points | None:
    numbers = setting if isinstance(setting, list) else [setting]
    if not _are_points(numbers):
        return None
    return tuple(map(float, numbers)) if len(numbers) > 3 else _resampled(numbers)


def _are_points(numbers: Any) -> bool:
    return (
        isinstance(numbers, list)
        and 0 < len(numbers) <= MOST_POINTS
        and all(
            isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
            for number in numbers
        )
    )


def _resampled(numbers: Sequence[float]) -> Points:
    """The same line, from at most three points, through POINTS of them."""
    last = len(numbers) - 1
    points = []
    for step in range(POINTS):
        at = last * step / (POINTS - 1)
        below = min(int(at), max(last - 1, 0))
        above = min(below + 1, last)
        points.append(round(numbers[below] + (at - below) * (numbers[above] - numbers[below]), 6))
    return tuple(points)


def _within(parameter: Parameter, number: float) -> float:
    nearest = number if parameter.beyond else parameter.nearest(number)
    return float(number if nearest is None else nearest)


def _written(points: Sequence[float]) -> Setting:
    """One number if all are the same; whole numbers without a point, as people write them."""
    numbers = [round(point) if point == round(point) else round(point, 4) for point in points]
    return numbers[0] if len(set(numbers)) == 1 else numbers

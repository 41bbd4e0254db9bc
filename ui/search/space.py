"""Writes the space of a search: the visitor's recipe with ranges in the place of numbers, and what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.yaml import load
from merging.recipe.dump import dump
from ui.languages.translate import t
from ui.recipe.sliders import RecipeSlider, entry_at, sliders_of, with_entry

# What is worth trying, where that is less than the parameter allows.
USUAL = {"weight": (0.0, 1.2), "density": (0.1, 1.0)}
# The most steps or trials; the minutes mostly end it before.
TRIALS = 60
# The guard that is no text: the share of faulty answers in a chat.
CHAT = "chat"
# Shares of the documents. A search of minutes has few trials, whose best is nearly as good on unseen documents; what is
# short is time to score, and documents that can show a difference.
SPLIT = {"search": 0.35, "choice": 0.15, "report": 0.5}


@dataclass(frozen=True)
class SpaceChoice:
    """What the fields of the Search tab say.

    Args:
        moving: keys of the numbers that may change, see `numbers_of`
        ranges: lowest and highest value by parameter
        groups: of layers, each with a number of its own; 1: one number for all layers
        goals: texts that the recipe is judged by, as a space names them
        guard: name of the text that must not get worse, or CHAT; empty for none
        margin: how much worse than the base model a text may get, in bits per byte
        minutes: that the trials take at most
        by: how points are chosen
    """

    moving: Sequence[str]
    ranges: Mapping[str, tuple[float, float]]
    groups: int
    goals: Sequence[Mapping[str, Any]]
    guard: str = ""
    margin: float = 0.01
    minutes: float = 2.0
    by: str = "auto"


def numbers_of(recipe: str) -> dict[str, RecipeSlider]:
    """The numbers of a recipe that a search may change, by key; gradients and filters count as one number."""
    return {slider.key: slider for slider in sliders_of(recipe) if slider.place[-1] == slider.parameter.name}


def label_of(recipe: str, number: RecipeSlider) -> str:
    """A number's name, with the model's that it belongs to."""
    owner = entry_at(load(recipe), number.place[:-2])
    model = owner.get("model") if isinstance(owner, Mapping) else None
    name = number.parameter.name
    return t("methods.of", name=name, model=model.rpartition("/")[2]) if isinstance(model, str) else name


def usual_range(numbers: Sequence[RecipeSlider]) -> tuple[float, float]:
    """The range for numbers of one parameter: what is usual, extended to their values."""
    low, high = USUAL.get(numbers[0].parameter.name, numbers[0].ends)
    values = [number.value for number in numbers]
    return min(low, *values), max(high, *values)


def moved_at_first(numbers: Mapping[str, RecipeSlider]) -> list[str]:
    """Keys of the numbers that a search changes unless its visitor says otherwise: the weights, or else all."""
    weights = [key for key, number in numbers.items() if number.parameter.name == "weight"]
    return weights or list(numbers)


def space_text(recipe: str, choice: SpaceChoice) -> str:
    """The space, as `searching.read_space` takes it.

    Args:
        recipe: YAML of a recipe that `numbers_of` finds numbers in
        choice: what may change, and what it is judged by
    """
    data = load(recipe)
    for key, number in numbers_of(recipe).items():
        if key in choice.moving:
            low, high = choice.ranges[number.parameter.name]
            groups = choice.groups if number.parameter.kind == "number" else 1
            ranged = _ranged(entry_at(data, number.place), low, high, groups, number.value)
            data = with_entry(data, number.place, ranged)
    goals = list(map(dict, choice.goals))
    if choice.guard:
        judged = {"chat": True} if choice.guard == CHAT else {"text": choice.guard}
        limit = "base" if choice.guard == CHAT else f"base + {choice.margin:g}"
        goals.append({**judged, "name": f"{choice.guard}, limit", "at_most": limit})
    budget = {"trials": TRIALS, "minutes": choice.minutes}
    settings = {"objective": goals, "split": SPLIT, "by": choice.by, "budget": budget}
    return dump({**data, "search": settings})


def _ranged(value: Any, low: float, high: float, groups: int, default: float) -> Any:
    """A range in the place of a value, which is its start: a number, a gradient, or a list of these with filters."""
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [
            {**_filter(part), **_ranged(part.get("value"), low, high, groups, default)}
            if isinstance(part, dict)
            else _ranged(part, low, high, groups, default)
            for part in value
        ]
    if isinstance(value, dict):
        return {**_filter(value), **_ranged(value.get("value"), low, high, groups, default)}
    found: dict[str, Any] = {"search": [low, high]}
    if isinstance(value, list) and len(value) > 1:
        return {**found, "start": [_inside(one, low, high) for one in value], "anchors": len(value)}
    start = value[0] if isinstance(value, list) else default if value is None else value
    return {**found, "start": _inside(start, low, high), **({"anchors": groups} if groups > 1 else {})}


def _filter(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"filter": part["filter"]} if part.get("filter") not in (None, "*") else {}


def _inside(value: Any, low: float, high: float) -> float:
    return min(max(float(value), low), high)

"""The space that the Search tab writes, read again by the package that searches it."""

from __future__ import annotations

import pytest

from searching import read_space
from searching.goals import Limit
from ui.languages.translate import speaking
from ui.recipe.presets import presets
from ui.search.space import CHAT, SpaceChoice, label_of, moved_at_first, numbers_of, space_text, usual_range

ARITHMETIC = """
merge_method: task_arithmetic
base_model: a/base
models:
  - model: a/one
    parameters: {weight: 0.5}
  - model: a/two
    parameters:
      weight:
        - {filter: mlp, value: [0, 0.5, 1]}
        - 0.25
parameters: {lambda: 1.5}
"""


def choice_for(recipe: str, moving: list[str] | None = None, **fields: object) -> SpaceChoice:
    numbers = numbers_of(recipe)
    ranges = {n.parameter.name: usual_range([n]) for n in numbers.values()}
    given: dict[str, object] = {
        "moving": moved_at_first(numbers) if moving is None else moving,
        "ranges": ranges,
        "groups": 1,
        "goals": [{"text": "english"}],
    }
    return SpaceChoice(**{**given, **fields})  # type: ignore[arg-type]


def test_each_value_of_a_recipe_becomes_a_range_that_starts_at_it() -> None:
    choice = choice_for(ARITHMETIC, list(numbers_of(ARITHMETIC)), groups=2)

    space = read_space(space_text(ARITHMETIC, choice))

    assert {axis.name: axis.start for axis in space.axes} == {
        "a/one.weight#1": 0.5,
        "a/one.weight#2": 0.5,
        "a/two.weight[mlp]#1": 0,
        "a/two.weight[mlp]#2": 0.5,
        "a/two.weight[mlp]#3": 1,
        "a/two.weight#1": 0.25,
        "a/two.weight#2": 0.25,
        "lambda#1": 1.5,
        "lambda#2": 1.5,
    }
    assert (space.axes[0].low, space.axes[0].high) == (0, 1.2)


def test_numbers_that_were_not_chosen_stay() -> None:
    first, *_ = numbers_of(ARITHMETIC)

    space = read_space(space_text(ARITHMETIC, choice_for(ARITHMETIC, [first])))

    assert [axis.name for axis in space.axes] == ["a/one.weight"]
    assert "1.5" in space.recipe(space.start).text


def test_a_guard_may_be_a_text_that_counts_as_well() -> None:
    choice = choice_for(
        ARITHMETIC,
        goals=[{"text": "english"}, {"text": "own"}],
        guard="english",
        margin=0.02,
        minutes=3,
        by="tpe",
    )

    settings = read_space(space_text(ARITHMETIC, choice)).settings

    assert [(goal.name, goal.source, goal.is_guard) for goal in settings.goals] == [
        ("english", "english", False),
        ("own", "own", False),
        ("english, limit", "english", True),
    ]
    limit = settings.goals[-1].limit
    assert limit and (limit.margin, limit.of) == (0.02, "base")
    assert (settings.minutes, settings.by) == (3, "tpe")


def test_a_guard_may_be_the_answers_in_a_chat() -> None:
    space = read_space(space_text(ARITHMETIC, choice_for(ARITHMETIC, guard=CHAT, margin=0.02)))

    *_, guard = space.settings.goals
    assert (guard.kind, guard.source, guard.limit) == ("chat", "", Limit(0.0, "base"))


def test_a_start_outside_of_the_range_moves_inside() -> None:
    choice = choice_for(ARITHMETIC, ranges={"weight": (0.6, 0.8), "lambda": (0, 1)})

    space = read_space(space_text(ARITHMETIC, choice))

    assert {axis.start for axis in space.axes} == {0.6, 0.8}


@pytest.mark.parametrize("preset", [preset for preset in presets(demo=False) if numbers_of(preset.recipe)])
def test_every_preset_with_numbers_can_be_searched(preset: object) -> None:
    recipe = preset.recipe  # type: ignore[attr-defined]

    space = read_space(space_text(recipe, choice_for(recipe, groups=3)))

    assert space.axes
    assert space.recipe(space.start)


@pytest.mark.parametrize("text", ["", "[]", "merge_method: x", "a: [", "merge_method: ties"])
def test_what_is_no_recipe_has_no_numbers_of_models(text: str) -> None:
    assert all(number.place[0] == "parameters" for number in numbers_of(text).values())


def test_numbers_are_named_with_their_model() -> None:
    with speaking("en"):
        names = [label_of(ARITHMETIC, number) for number in numbers_of(ARITHMETIC).values()]

    assert names == ["weight of one", "weight of two", "lambda"]


def test_half_of_the_documents_are_reported_on() -> None:
    shares = read_space(space_text(ARITHMETIC, choice_for(ARITHMETIC))).settings.shares

    assert (shares.search, shares.choice, shares.report) == (0.35, 0.15, 0.5)

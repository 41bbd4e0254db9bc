"""Spaces: what may change, the recipes that come of it, and what is wrong with a text."""

from __future__ import annotations

import pytest
import yaml

from checkpoints.problems import RecipeError
from merging import read_recipe
from searching import read_space

SPACE = """
merge_method: {search: [ties, task_arithmetic]}
base_model: org/base
models:
  - model: org/math
    use: {search: [0, 1]}
    parameters:
      density: {search: [0.1, 1], start: 0.5}
      weight: {search: [0, 1.2], start: 0.5, anchors: 3}
  - model: org/korean
    parameters:
      density: 0.3
      weight:
        - {filter: self_attn, search: [0, 1.2]}
        - {search: [0, 1.2], start: 1}
search:
  objective:
    - {text: korean.txt}
    - {text: english.txt, at_most: base + 0.01}
"""
SMALL = """
merge_method: task_arithmetic
base_model: org/base
models:
  - {model: org/math, parameters: {weight: {search: [0, 1.2], start: 0.5}}}
  - {model: org/korean, parameters: {weight: 0.25}}
search:
  objective: [{text: korean.txt}]
"""


def test_the_start_is_a_plain_recipe() -> None:
    space = read_space(SPACE)

    recipe = space.recipe(space.start)

    expected = """
merge_method: ties
base_model: org/base
models:
  - {model: org/math, parameters: {density: 0.5, weight: [0.5, 0.5, 0.5]}}
  - model: org/korean
    parameters: {density: 0.3, weight: [{filter: self_attn, value: 0.6}, {value: 1}]}
"""
    assert recipe == read_recipe(expected)
    assert read_recipe(recipe.text) == recipe
    assert "search" not in recipe.text


def test_a_point_fills_every_place() -> None:
    space = read_space(SPACE)
    point = {
        **space.start,
        "merge_method": "task_arithmetic",
        "org/math.weight#1": 0.1,
        "org/math.weight#3": 0.3000001234,
        "org/korean.weight[self_attn]": 0.7,
    }

    found = yaml.safe_load(space.recipe(point).text)

    assert found["merge_method"] == "task_arithmetic"
    # A parameter that only the other method has is left out, and numbers have six digits.
    assert found["models"][0] == {"model": "org/math", "parameters": {"weight": [0.1, 0.5, 0.3]}}
    weight = found["models"][1]["parameters"]["weight"]
    assert weight == [{"filter": "self_attn", "value": 0.7}, 1.0]


def test_a_model_that_is_not_used_leaves_the_recipe() -> None:
    space = read_space(SPACE)

    recipe = space.recipe({**space.start, "org/math.use": False})

    assert [str(source.model) for source in recipe.models] == ["org/korean"]


def test_the_average_weighs_all_models_alike() -> None:
    average = read_space(SPACE).average()

    found = yaml.safe_load(average.text)
    assert found["models"][0]["parameters"]["weight"] == [0.5, 0.5, 0.5]
    assert found["models"][1]["parameters"]["weight"] == [{"filter": "self_attn", "value": 0.5}, 0.5]


def test_the_average_of_slerp_is_half_way() -> None:
    text = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
    text += "parameters: {t: {search: [0, 1], start: 0.2}}\nsearch: {objective: [{text: a.txt}]}"
    space = read_space(text)

    assert space.average() == space.recipe({"t": 0.5})
    assert space.start == {"t": 0.2}


def test_parents_are_recipes_of_one_model() -> None:
    space = read_space(SPACE)

    parents = space.parents()

    assert list(parents) == ["org/base", "org/math", "org/korean"]
    assert space.base() == "org/base"
    for name, recipe in parents.items():
        assert recipe.merge_method == "passthrough"
        assert [str(source.model) for source in recipe.models] == [name]
        assert read_recipe(recipe.text).models[0].model == recipe.models[0].model


def test_axes_by_their_parameters() -> None:
    text = SMALL.replace("weight: 0.25", "weight: 0.25, density: {search: [0.1, 0.5, 0.9]}")
    text = text.replace("task_arithmetic", "ties") + "parameters: {normalize: {search: [false, true]}}\n"
    axes = {axis.name: axis for axis in read_space(text).axes}

    assert axes["org/korean.density"].choices == (0.1, 0.5, 0.9)
    assert axes["normalize"].choices == (True, False)
    assert (axes["org/math.weight"].low, axes["org/math.weight"].high) == (0, 1.2)


def test_values_with_the_same_name_are_told_apart() -> None:
    text = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: {search: [0, 1]}}}
      - {model: b, layer_range: [0, 2], parameters: {weight: 0.5}}
  - sources:
      - {model: a, layer_range: [2, 4], parameters: {weight: {search: [0, 1]}}}
      - {model: b, layer_range: [2, 4], parameters: {weight: 0.5}}
search: {objective: [{text: a.txt}]}
"""
    assert [axis.name for axis in read_space(text).axes] == ["a.weight", "a.weight (2)"]


def test_numbers_of_the_block() -> None:
    text = SMALL.replace(
        "  objective: [{text: korean.txt}]\n",
        """
  objective:
    - {text: {search: a.txt, choice: b.txt, report: c.txt}, weight: 2}
    - {task: kmmlu, questions: 50, few_shot: 0}
    - {chat: true, at_most: base}
    - {python: judge.py:score, text: prompts.txt, at_least: base - 0.5}
  split: {search: 0.6, choice: 0.1, report: 0.3, seed: 4}
  by: cmaes
  budget: {trials: 7, minutes: 0.5}
  seed: 9
""",
    )
    settings = read_space(text).settings

    texts, task, chat, python = settings.goals
    assert dict(texts.by_part) == {"search": "a.txt", "choice": "b.txt", "report": "c.txt"}
    assert (texts.weight, task.questions, task.few_shot, chat.source) == (2, 50, 0, "")
    assert chat.limit and chat.limit.above(0.25) == 0.25
    assert python.limit and python.limit.above(2.0) == 1.5
    assert (settings.by, settings.trials, settings.minutes, settings.seed) == ("cmaes", 7, 0.5, 9)
    assert (settings.shares.search, settings.shares.seed) == (0.6, 4)


@pytest.mark.parametrize(
    ("old", "new", "code", "place"),
    [
        ("search: [0, 1.2], start: 0.5", "search: [0]", "search-values", (5, 53)),
        ("search: [0, 1.2], start: 0.5", "search: [1.2, 0]", "search-values", (5, 53)),
        ("search: [0, 1.2], start: 0.5", "search: [[0], [1]]", "search-values", (5, 53)),
        ("search: [0, 1.2], start: 0.5", "search: [0, 1.2], start: 2", "search-start", (5, 70)),
        ("search: [0, 1.2], start: 0.5", "search: [0, 1.2], anchors: 1", "search-anchors", (5, 72)),
        ("search: [0, 1.2], start: 0.5", "search: [0, 1.2], step: 1", "unknown-key", (5, 63)),
        ("search: [0, 1.2], start: 0.5", "search: [zero, one]", "parameter-value", (5, 44)),
        ("weight: 0.25", "weight: 0.25, wait: 1", "unknown-parameter", (6, 52)),
        ("weight: {search: [0, 1.2], start: 0.5}", "weight: 1", "nothing-to-search", (2, 1)),
        ("objective: [{text: korean.txt}]", "by: tpe", "no-objective", (8, 3)),
        ("text: korean.txt", "text: korean.txt, at_most: base", "only-guards", (8, 14)),
        ("text: korean.txt", "txt: korean.txt", "unknown-key", (8, 16)),
        ("text: korean.txt", "weight: 1", "goal-kind", (8, 15)),
        ("text: korean.txt", "chat: true", "chat-without-limit", (8, 15)),
        ("text: korean.txt", "text: a, task: b", "goal-kind", (8, 15)),
        ("text: korean.txt", "text: a, at_least: 1", "limit-direction", (8, 35)),
        ("text: korean.txt", "text: a, at_most: base +", "goal-limit", (8, 34)),
        ("text: korean.txt", "text: a, at_most: [1]", "goal-limit", (8, 34)),
        ("text: korean.txt", "text: a, weight: 0", "goal-without-weight", (8, 33)),
        ("text: korean.txt", "text: a, weight: -1", "search-number", (8, 33)),
        ("text: korean.txt", "text: a, weight: 2, at_most: 1", "weight-of-limit", (8, 33)),
        ("text: korean.txt", "python: judge", "python-source", (8, 24)),
        ("text: korean.txt", "text: {search: a}", "parts-missing", (8, 22)),
        ("[{text: korean.txt}]", "[{text: a}, {text: x/a}]", "repeated-goal", (8, 14)),
        ("search:\n  obj", "search:\n  by: magic\n  obj", "search-way", (8, 7)),
        ("search:\n  obj", "search:\n  budget: {trials: 0}\n  obj", "search-number", (8, 20)),
        ("search:\n  obj", "search:\n  split: {search: 0.5}\n  obj", "", (0, 0)),
        ("search:\n  obj", "search:\n  split: {search: 0.9}\n  obj", "search-shares", (8, 10)),
        ("search:\n  obj", "other:\n  obj", "no-search-block", (1, 1)),
        ("search:\n  obj", "? [a]\n: b\nsearch:\n  obj", "key", (7, 3)),
    ],
)
def test_what_is_wrong_with_a_space(old: str, new: str, code: str, place: tuple[int, int]) -> None:
    text = SMALL.replace(old, new)
    assert text != SMALL
    if not code:
        assert read_space(text)
        return

    with pytest.raises(RecipeError) as raised:
        read_space(text)

    found = next(problem for problem in raised.value.problems if problem.code == code)
    assert (found.where.line, found.where.column) == place  # type: ignore[union-attr]


def test_bounds_of_the_parameter_hold_at_both_ends() -> None:
    text = SMALL.replace("task_arithmetic", "ties").replace(
        "weight: 0.25", "weight: {search: [0, 1]}, density: {search: [0.5, 1.7]}"
    )

    with pytest.raises(RecipeError, match="must be a number from 0 to 1") as raised:
        read_space(text)

    [problem] = raised.value.problems  # and none of the middle, which nobody wrote
    assert (str(problem.where), problem.values["found"]) == ("line 6, column 73", "'1.7'")


def test_weights_of_models_become_a_point() -> None:
    space = read_space(SPACE)

    point = space.weighted({"org/math": 0.25, "org/korean": 7.0, "org/other": 1.0})

    assert space.weighted_models() == ("org/math", "org/korean")
    assert [point[f"org/math.weight#{anchor}"] for anchor in (1, 2, 3)] == [0.25] * 3
    assert point["org/korean.weight[self_attn]"] == 1.2  # the end of its range
    assert point["org/math.use"] is True and space.holds(point)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        ("objective: [{text: a.txt, teacher: org/moth}]", "unknown-teacher"),
        ("objective: [{text: a.txt}, {text: b.txt, at_most: bose}]", "unknown-limit"),
        ("objective: [{python: 'a.py:f', text: a.txt, teacher: org/math}]", "teacher-without-text"),
        ("objective: [{text: a.txt}]\n  starts: [greedy]", "unknown-start"),
        ("objective: [{text: a.txt}]\n  starts: greedy_soup", "not-a-list"),
        ("objective: [{text: a.txt}]\n  starts: [greedy_soup]", "starts-without-weights"),
        ("objective: [{text: a.txt}]\n  starts: [greedy_soup]\n  by: grid", "starts-of-grid"),
        ("objective: [{task: kmmlu}]\n  starts: [lm_cocktail]", "cocktail-without-texts"),
    ],
)
def test_what_is_wrong_with_teachers_and_starts(block: str, code: str) -> None:
    text = SMALL.replace("objective: [{text: korean.txt}]", block)

    with pytest.raises(RecipeError) as raised:
        read_space(text)

    assert code in [problem.code for problem in raised.value.problems]


def test_teachers_and_starts_are_read() -> None:
    text = SMALL.replace("weight: 0.25", "weight: {search: [0, 1]}").replace(
        "{text: korean.txt}", "{text: korean.txt, teacher: org/math}, {dataset: a/b, teacher: org/base}"
    )
    settings = read_space(
        text.replace("search:\n", "search:\n  starts: [lm_cocktail, greedy_soup]\n")
    ).settings

    assert [goal.teacher for goal in settings.goals] == ["org/math", "org/base"]
    assert settings.starts == ("lm_cocktail", "greedy_soup")


@pytest.mark.parametrize(
    ("written", "of", "margin"),
    [
        ("1.5", "", 1.5),
        ("base", "base", 0.0),
        ("base+0.01", "base", 0.01),
        ("base - 1e-3", "base", -0.001),
        ("org/math", "org/math", 0.0),
        ("org/math + 0.02", "org/math", 0.02),
        ("org/korean -0.5", "org/korean", -0.5),
    ],
)
def test_limits_are_relative_to_a_model(written: str, of: str, margin: float) -> None:
    text = SMALL.replace("{text: korean.txt}", f"{{text: a.txt}}, {{text: b.txt, at_most: {written}}}")

    limit = read_space(text).settings.goals[1].limit

    assert limit and (limit.of, limit.margin) == (of, margin)
    assert limit.above(2.0) == (2.0 + margin if of else margin)

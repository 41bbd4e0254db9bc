"""Curves as they are drawn: what the recipe says, and what it says after a line was moved."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ui.recipe.drawn_curves import LINES, drawn_curves, with_line
from ui.recipe.form_state import read
from ui.recipe.presets import presets

SLERP = """\
# mine
merge_method: slerp
base_model: a/a
models: [{model: a/a}, {model: b/b}]
parameters:
  t:
    - {filter: self_attn, value: [0, 1]}  # attention
    - value: 0.5
"""
LINEAR = """\
merge_method: linear
models:
  - {model: a/a, parameters: {weight: 0.3}}
  - model: b/b
parameters: {weight: 0.7}
"""


def setting(recipe: str | None) -> Any:
    return yaml.safe_load(recipe or "")["parameters"]["t"]


def test_a_line_has_the_points_that_the_recipe_gives_or_five() -> None:
    [curve] = drawn_curves(SLERP)

    assert (curve.key, curve.label, curve.varies) == ("parameters/t", "t", True)
    assert curve.lines == {"rest": (0.5,) * 5, "attention": (0, 0.25, 0.5, 0.75, 1), "mlp": None}
    many = SLERP.replace("[0, 1]", "[0, 1, 0, 1, 0, 1, 0]")
    assert drawn_curves(many)[0].lines["attention"] == (0, 1, 0, 1, 0, 1, 0)


def test_a_number_of_each_model_is_a_curve_of_its_own() -> None:
    curves = drawn_curves(LINEAR)

    assert [(curve.key, curve.rest[0]) for curve in curves] == [
        ("models/0/parameters/weight", 0.3),
        ("models/1/parameters/weight", 0.7),
    ]
    moved = yaml.safe_load(with_line(LINEAR, curves[1].key, "rest", [0, 0.5, 1, 1, 1]) or "")
    assert moved["models"][1]["parameters"]["weight"] == [0, 0.5, 1, 1, 1]
    assert moved["models"][0]["parameters"]["weight"] == 0.3


def test_a_moved_line_changes_itself_alone_and_keeps_comments() -> None:
    moved = with_line(SLERP, "parameters/t", "mlp", [1, 0.5, 0.25, 0.123456, 0])

    assert setting(moved) == [
        {"filter": "self_attn", "value": [0, 1]},
        {"filter": "mlp", "value": [1, 0.5, 0.25, 0.1235, 0]},
        {"value": 0.5},
    ]
    assert moved is not None
    assert moved.startswith("# mine")


def test_a_flat_line_is_one_number_and_a_line_that_follows_is_none() -> None:
    flat = with_line(SLERP, "parameters/t", "attention", [0.5] * 5)
    followed = with_line(SLERP, "parameters/t", "attention", None)

    assert setting(flat)[0] == {"filter": "self_attn", "value": 0.5}
    assert setting(followed) == 0.5


@pytest.mark.parametrize(
    ("key", "line", "points"),
    [
        ("parameters/u", "rest", [0, 1]),
        ("parameters/t", "else", [0, 1]),
        ("parameters/t", "rest", None),
        ("parameters/t", "rest", []),
        ("parameters/t", "rest", [0, "1"]),
        ("parameters/t", "rest", [float("nan")]),
        ("parameters/t", "rest", [0] * 1000),
        ("parameters/t", "rest", "0.5"),
    ],
)
def test_what_a_stranger_sends_changes_nothing(key: str, line: str, points: Any) -> None:
    assert with_line(SLERP, key, line, points) is None


def test_points_stay_in_the_range_of_the_parameter() -> None:
    assert setting(with_line(SLERP, "parameters/t", "rest", [-3, 0.5, 7])) == [
        {"filter": "self_attn", "value": [0, 1]},
        {"value": [0, 0.5, 1]},
    ]


@pytest.mark.parametrize("recipe", ["", "merge_method: [", "merge_method: slerp\nslices: []", "a: b"])
def test_what_the_form_cannot_show_has_no_curves(recipe: str) -> None:
    assert drawn_curves(recipe) == ()


def test_other_filters_have_no_curve() -> None:
    assert drawn_curves(SLERP.replace("self_attn", "layernorm")) == ()


@pytest.mark.parametrize("preset", presets(demo=True), ids=lambda preset: preset.key)
def test_drawing_a_line_as_it_is_changes_no_value(preset: Any) -> None:
    for curve in drawn_curves(preset.recipe):
        for line in LINES:
            points = curve.lines[line]
            if points is None:
                continue
            moved = with_line(preset.recipe, curve.key, line, list(points))
            assert moved is not None
            again = next(one for one in drawn_curves(moved) if one.key == curve.key)
            assert again.lines == curve.lines
            assert read(moved).names() == read(preset.recipe).names()

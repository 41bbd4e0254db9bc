"""The picture of what each layer gets, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging import Plan, make_plan, read_recipe
from merging.planning.parameters_by_layer import Copy, resolved
from tests.ui.test_cards import shown
from ui.merge.layers_card import layers_card

SLERP = """
merge_method: slerp
base_model: {0}/base
models: [{{model: {0}/base}}, {{model: {0}/a}}]
parameters:
  t:
    - {{filter: mlp, value: [0, 1]}}
    - {{value: 0.5}}
"""
LINEAR = """
merge_method: linear
models:
  - {{model: {0}/a, parameters: {{weight: 0.25}}}}
  - {{model: {0}/b, parameters: {{weight: [0.5, 1.5]}}}}
"""
STACK = """
merge_method: passthrough
slices:
  - sources: [{{model: {0}/a, layer_range: [0, 3]}}]
  - sources: [{{model: {0}/b, layer_range: [1, 4]}}]
"""


def plan_of(recipe: str, folder: Path) -> Plan:
    plan = make_plan(read_recipe(recipe.format(folder)))
    assert plan.ok, plan.problems
    return plan


def test_kinds_that_get_the_same_stand_together(folder: Path) -> None:
    [(title, rows)] = resolved(plan_of(SLERP, folder))

    assert title == "t"
    assert {row.label: row.cells for row in rows} == {
        "input_layernorm, post_attention_layernorm, self_attn": (0.5,) * 4,
        "mlp": (Copy("base"), pytest.approx(1 / 3), pytest.approx(2 / 3), Copy("a")),
        "embed_tokens, norm": (0.5,),
    }


def test_every_model_has_its_own_picture(folder: Path) -> None:
    found = dict(resolved(plan_of(LINEAR, folder)))

    assert {title: rows[0].cells for title, rows in found.items()} == {
        "weight: a": (0.25,) * 4,
        "weight: b": (0.5, pytest.approx(0.5 + 1 / 3), pytest.approx(0.5 + 2 / 3), 1.5),
        "normalize": (True,) * 4,
    }


def test_layer_ranges_are_spelled_out(folder: Path) -> None:
    plan = plan_of(STACK, folder)

    text = shown(layers_card(plan, read_recipe(plan.recipe))).text

    assert "Layers 0 to 2 of the result: layers 0 to 2 of a" in text
    assert "Layers 3 to 5 of the result: layers 1 to 3 of b" in text


def test_it_is_read_aloud_and_never_markup(folder: Path) -> None:
    plan = plan_of(SLERP, folder)

    tags = shown(layers_card(plan, read_recipe(plan.recipe)))

    assert ("aria-label", "mlp: 0.3333 to 0.6667") in tags.attributes
    assert "layer 3: copy of a" in tags.text


def test_without_a_plan_there_is_no_picture() -> None:
    assert "once the plan has no problems" in layers_card(Plan("", ""), None)


def test_slices_are_a_staircase(folder: Path) -> None:
    many = "".join(
        f"  - sources: [{{{{model: {{0}}/a, layer_range: [{n}, {n + 1}]}}}}]\n" for n in (0, 1, 2, 1, 2, 3)
    )
    plan = plan_of(f"merge_method: passthrough\nslices:\n{many}", folder)

    tags = shown(layers_card(plan, read_recipe(plan.recipe)))

    steps = [value for name, value in tags.attributes if name == "y"]
    assert steps == ["3", "2", "1", "2", "1", "0"]  # from above
    assert tags.names.count("svg") == 1  # and no strips of copies
    assert "Layer 3 of the result: layer 1 of a" in tags.text
    assert "The 6 slices in words" in tags.text

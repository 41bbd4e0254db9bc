"""The numbers of a recipe that a slider can turn: all of them, and nothing else of the text changes."""

from __future__ import annotations

import pytest
import yaml

from merging import METHODS
from ui.recipe.curves import changed_values, curve_sliders, tuned
from ui.recipe.presets import presets
from ui.recipe.sliders import RecipeSlider, sliders_of, with_value

GRADIENT = """\
merge_method: slerp  # along the arc
base_model: a/x
slices:
  - sources: [{model: a/x, layer_range: [0, 4]}, {model: a/y, layer_range: [0, 4]}]
    parameters: {t: 0.25}
  - sources: [{model: a/x, layer_range: [4, 8]}, {model: a/y, layer_range: [4, 8]}]
parameters:
  t:
    - filter: self_attn
      value: [0, 1]
    - filter: mlp   # less
      value: 0.3
    - value: 0.5
# the end
dtype: bfloat16
"""
WEIGHTS = """\
models:
  - model: a/x
    parameters: {weight: 3, density: 0.5}
  - model: a/y
    parameters:
      weight: 1.0   # whole
merge_method: ties
base_model: a/z
"""


def at(recipe: str, key: str) -> RecipeSlider:
    return next(slider for slider in sliders_of(recipe) if slider.key == key)


def test_every_number_is_found_with_its_range() -> None:
    found = {slider.key: (slider.label, slider.value, slider.ends) for slider in sliders_of(WEIGHTS)}

    assert found == {
        "models/0/parameters/weight": ("weight of x", 3, (0, 3)),  # beyond the slider's own end
        "models/0/parameters/density": ("density of x", 0.5, (0, 1)),
        "models/1/parameters/weight": ("weight of y", 1, (0, 2)),
        "parameters/lambda": ("lambda", 1, (0, 2)),  # left at its default
    }


def test_values_by_layer_and_by_tensor() -> None:
    found = {slider.key: (slider.label, slider.value) for slider in sliders_of(GRADIENT)}

    assert found == {
        "slices/0/parameters/t": ("t of slice 1", 0.25),
        "parameters/t": ("t: one number for all layers", pytest.approx(1.8 / 4)),
        "parameters/t/1/value": ("t: mlp", 0.3),
        "parameters/t/2/value": ("t: everything else", 0.5),
    }


@pytest.mark.parametrize(
    ("recipe", "key", "before", "after"),
    [
        (WEIGHTS, "models/0/parameters/weight", "{weight: 3,", "{weight: 0.7,"),
        (WEIGHTS, "models/1/parameters/weight", "weight: 1.0   # whole", "weight: 0.7   # whole"),
        (WEIGHTS, "parameters/lambda", "a/z\n", "a/z\nparameters:\n  lambda: 0.7\n"),
        (GRADIENT, "parameters/t/1/value", "value: 0.3", "value: 0.7"),
        (
            GRADIENT,
            "parameters/t",
            GRADIENT[GRADIENT.index("  t:\n") : GRADIENT.index("# the")],
            "  t: 0.7\n",
        ),
        (GRADIENT, "slices/0/parameters/t", "{t: 0.25}", "{t: 0.7}"),
    ],
)
def test_the_rest_of_the_text_stays(recipe: str, key: str, before: str, after: str) -> None:
    assert with_value(recipe, at(recipe, key), 0.7) == recipe.replace(before, after)


def test_a_whole_number_stays_whole_and_a_default_joins_the_others() -> None:
    recipe = "merge_method: karcher\nparameters:\n  tol: 0.001\nmodels: [{model: a/x}, {model: a/y}]\n"

    assert with_value(recipe, at(recipe, "parameters/max_iter"), 20.0) == recipe.replace(
        "  tol", "  max_iter: 20\n  tol"
    )


def test_a_text_that_cannot_be_edited_in_place_says_the_same_anew() -> None:
    alias = "merge_method: linear\nmodels: [{model: a/x, parameters: &p {weight: 1}}, {model: a/y, parameters: *p}]\n"

    changed = with_value(alias, at(alias, "models/1/parameters/weight"), 0.5)

    weights = [entry["parameters"]["weight"] for entry in yaml.safe_load(changed)["models"]]
    assert weights == [1, 0.5]


@pytest.mark.parametrize(
    "preset", [p for p in presets(demo=True) if "merge_method" in p.recipe], ids=lambda preset: preset.key
)
def test_what_was_turned_is_the_difference(preset: object) -> None:
    recipe = preset.recipe  # type: ignore[attr-defined]
    found = curve_sliders(recipe)
    numbers = [p for p in METHODS[yaml.safe_load(recipe)["merge_method"]].parameters if p.kind == "number"]
    assert bool(found) is bool(numbers)
    assert changed_values(recipe, recipe) == ()
    for slider in found:
        changed = tuned(recipe, slider, 0.15, recipe)
        assert [(it.key, it.value) for it in changed_values(recipe, changed)] == [(slider.key, 0.15)]
        assert tuned(changed, curve_at(changed, slider.key), 0.15, recipe) == changed


CURVE = """\
merge_method: slerp
base_model: a/x
models: [{model: a/x}, {model: a/y}]
parameters:
  t: [0, 0.5, 1] # up
"""


def curve_at(recipe: str, key: str) -> RecipeSlider:
    return next(slider for slider in curve_sliders(recipe) if slider.key == key)


def test_a_curve_moves_as_a_whole_and_comes_back() -> None:
    slider = curve_sliders(CURVE)[0]
    assert (slider.label, slider.value) == ("t: mean of the curve, which keeps its shape", 0.5)

    # By 0.3; what would be above 1 is cut off: 0.3 and 0.8 and 1 have the mean 0.7.
    higher = tuned(CURVE, slider, 0.7, CURVE)

    assert higher == CURVE.replace("[0, 0.5, 1]", "[0.3, 0.8, 1]")
    highest = tuned(higher, curve_sliders(higher)[0], 1.0, CURVE)
    back = tuned(highest, curve_sliders(highest)[0], 0.5, CURVE)
    assert yaml.safe_load(back) == yaml.safe_load(CURVE) and "# up" in back


def test_one_number_in_place_of_a_curve_says_so() -> None:
    labels = {slider.key: slider.label for slider in curve_sliders(CURVE)}

    assert labels["parameters/t"] == "t: one number for all layers, in place of the curve"
    assert len(sliders_of(CURVE)) == 1  # a search has its own curves


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "merge_method: none", "a: 1\n---\nb: 2\n"])
def test_what_is_no_recipe_has_no_numbers(text: str) -> None:
    assert sliders_of(text) == ()

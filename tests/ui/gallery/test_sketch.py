"""A recipe in short."""

from __future__ import annotations

import pytest

from examples.gallery import MERGES
from merging import METHODS
from ui.gallery.sketch import EXPERTS, LONGEST_RECIPE, MOST_MODELS, sketch
from ui.recipe.presets import presets

GRADIENT = """\
merge_method: slerp
base_model: a/one
models: [{model: a/one}, {model: a/two}]
parameters:
  t:
    - {filter: mlp, value: [1, 0]}
    - value: [0, 0.5, 1]
"""


def test_a_curve_is_scaled_to_its_range() -> None:
    found = sketch(GRADIENT)

    assert found is not None
    assert (found.method, found.title, found.models) == ("slerp", "SLERP", ("a/one", "a/two"))
    assert found.curve == "t"
    assert found.lines["rest"] == (0, 0.25, 0.5, 0.75, 1)
    assert found.lines["mlp"] == (1, 0.75, 0.5, 0.25, 0)


def test_a_recipe_of_one_slice_has_its_curve_and_an_adapter_is_a_model() -> None:
    assert (found := sketch(MERGES["Pirate-Bard-SLERP"].recipe)) is not None
    assert found.lines["attention"] == (0, 0.5, 0.3, 0.7, 1)
    assert (alone := sketch(MERGES["Pirate-Alone"].recipe)) is not None
    assert [name.rpartition("/")[2] for name in alone.models] == [
        "SmolLM2-135M-Instruct",
        "SmolLM2-135M-Pirate-LoRA",
    ]


def test_layers_from_elsewhere_are_a_stack() -> None:
    stacked = "merge_method: passthrough\nslices:\n" + "\n".join(
        f"  - sources: [{{model: a/one, layer_range: [{start}, {start + 2}]}}]" for start in (0, 1)
    )

    found = sketch(stacked)

    assert found is not None and found.stack is not None and not found.lines


def test_a_mixture_of_experts_has_its_models() -> None:
    found = sketch("base_model: a/base\nexperts:\n  - source_model: a/one\n  - source_model: a/two\n")

    assert found is not None
    assert (found.method, found.models) == (EXPERTS, ("a/base", "a/one", "a/two"))


@pytest.mark.parametrize(
    "text",
    [
        "", "a: [", "[1, 2]", "merge_method: no-such-method\nmodels: [{model: a/one}]", "x" * (LONGEST_RECIPE + 1),
        "merge_method: [slerp]\nmodels: 7", "merge_method: linear\nmodels: &a [*a]",
    ],
)  # fmt: skip
def test_what_is_no_recipe_has_none(text: str) -> None:
    assert sketch(text) is None


def test_what_a_stranger_writes_is_bounded() -> None:
    huge = "merge_method: passthrough\nslices:\n" + "\n".join(
        f"  - sources: [{{model: a/one, layer_range: [0, {10**9}]}}]" for _ in range(2)
    )
    found = sketch(huge)
    assert found is None or found.stack is None
    many = "\n".join(f"  - {{model: a/{n}, parameters: {{weight: 1}}}}" for n in range(50))
    crowd = sketch(f"merge_method: linear\nmodels:\n{many}\n")
    assert crowd is not None and len(crowd.models) == MOST_MODELS


def test_every_merge_of_the_demo_and_every_preset_can_be_sketched() -> None:
    texts = [shown.recipe for shown in MERGES.values()] + [preset.recipe for preset in presets(demo=True)]

    sketches = [sketch(text) for text in texts]

    assert len(MERGES) == 12
    assert all(found and (found.method == EXPERTS or found.method in METHODS) for found in sketches)

"""A LoRA's fields and the recipe that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from merging import read_recipe
from ui.recipe.lora_state import LoraState, read, rewritten

RECIPE = "# mine\nmerge_method: passthrough\nmodels:\n  - model: a/base+b/lora  # both\ndtype: bfloat16\n"


def test_base_and_adapter_are_read_from_each_form() -> None:
    assert read(RECIPE) == LoraState("a/base", "b/lora", 1.0, {"dtype": "bfloat16"})
    for adapters, scale in (
        ("[b/lora]", 1.0),
        ("[{model: b/lora}]", 1.0),
        ("[{model: b/lora, scale: 0.5}]", 0.5),
    ):
        found = read(
            f"merge_method: passthrough\nmodels: [{{model: {{model: a/base, adapters: {adapters}}}}}]"
        )
        assert found == LoraState("a/base", "b/lora", scale)


@pytest.mark.parametrize(
    "text",
    [
        "merge_method: passthrough\nmodels: [{model: a/base}]",
        "merge_method: passthrough\nmodels: [{model: a/base+b/one+b/two}]",
        "merge_method: passthrough\nmodels: [{model: a/base+b/one, parameters: {scale: 2}}]",
        "merge_method: passthrough\nmodels: [{model: {model: a/base+b/one, adapters: [b/two]}}]",
        "merge_method: passthrough\nmodels: [{model: {model: a/base, adapters: [{model: b/one, scale: 9}]}}]",
        "merge_method: passthrough\nmodels: [{model: a/base+b/one}]\nslices: []",
        "merge_method: linear\nmodels: [{model: a/base+b/one}]",
        "models: [",
        "",
    ],
)
def test_everything_else_is_not_theirs(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize("scale", [1.0, 0.65, 0.0])
def test_what_is_written_is_read_again_and_comments_stay(scale: float) -> None:
    state = LoraState("a/base", "b/other", scale, {"dtype": "bfloat16"})

    text = rewritten(RECIPE, state)

    assert read(text) == state
    assert text.startswith("# mine")
    adapters = read_recipe(text).models[0].model.adapters
    assert [(adapter.name, adapter.scale) for adapter in adapters] == [("b/other", scale)]


def test_a_base_alone_is_written_as_such() -> None:
    said: Any = yaml.safe_load(rewritten(RECIPE, LoraState("a/base", "", 0.5)))

    assert said["models"] == [{"model": "a/base"}]

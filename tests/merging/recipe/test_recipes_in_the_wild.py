"""The kinds of recipes that mergekit's own examples are, and a published SLERP, at the depth of the models that they
name: each plans, runs, loads and gives what mergekit gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from merging import make_plan, read_recipe, run_plan
from tests.merging.recipe.test_recipe import GRADIENT_SLERP
from tests.merging.test_against_mergekit import chosen_among_equals, mergekit, tensors
from tests.tiny import tiny_llama

NARROW: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "dtype": torch.float16,
    "tie_word_embeddings": False,
}
KINDS = {
    "a SLERP with gradients": GRADIENT_SLERP,
    "a soup of three whose weights do not add up to one": """
merge_method: linear
models:
  - {model: org/first, parameters: {weight: 1.0}}
  - {model: org/second, parameters: {weight: 0.4}}
  - {model: org/third, parameters: {weight: 0.6}}
dtype: float16
""",
    "two overlapping halves": """
merge_method: passthrough
slices:
  - sources: [{model: org/first, layer_range: [0, 28]}]
  - sources: [{model: org/second, layer_range: [24, 48]}]
dtype: float16
""",
    "ties with gradients and a filter": """
merge_method: ties
base_model: org/base
models:
  - model: org/first
    parameters: {weight: 1.0, density: [1, 0.6, 0.2]}
  - model: org/second
    parameters: {weight: [0, 0.4, 0.8, 1], density: 0.5}
  - model: org/third
    parameters:
      density: 0.35
      weight: [{filter: mlp, value: 0.6}, {value: 0}]
parameters: {normalize: true, int8_mask: true}
dtype: float16
""",
    "ties of halves, not normalized": """
merge_method: ties
base_model: org/base
models:
  - {model: org/first, parameters: {density: 0.5, weight: 0.5}}
  - {model: org/second, parameters: {density: 0.5, weight: 0.5}}
parameters: {normalize: false, int8_mask: true}
dtype: float16
""",
    "slerp without slices": """
merge_method: slerp
base_model: org/first
models: [{model: org/first}, {model: org/second}]
parameters: {t: 0.4}
dtype: bfloat16
""",
}
CHAIN = """
name: soup
merge_method: linear
models: [{model: org/first}, {model: org/second}]
parameters: {weight: 0.5}
---
name: between
merge_method: slerp
base_model: soup
models: [{model: org/third}]
parameters: {t: 0.5}
---
merge_method: dare_ties
base_model: org/base
models:
  - {model: between, parameters: {density: 0.6, weight: 0.5}}
  - {model: org/first, parameters: {density: 0.8, weight: 0.5}}
"""
FUSION = """
merge_method: arcee_fusion
base_model: org/first
models: [{model: org/first}, {model: org/second}]
dtype: bfloat16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three fine-tunes of 48 layers."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0, num_hidden_layers=48, **NARROW)
    for seed, name in enumerate(("first", "second", "third"), 1):
        tiny_llama(folder / name, seed, base, num_hidden_layers=48, **NARROW)
    return folder


def run(text: str, folder: Path, to: Path) -> dict[str, torch.Tensor]:
    """The merge's tensors, after the model was loaded and asked."""
    plan = make_plan(read_recipe(on_folders(text, folder)), str(to))
    assert plan.problems == ()
    run_plan(plan, str(to), workers=1)
    model = AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32)
    assert model(torch.arange(8)[None]).logits.isfinite().all()
    return tensors(to)


def on_folders(text: str, folder: Path) -> str:
    return text.replace("@v1.0", "").replace("org/", f"{folder}/")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_recipe(kind: str, folder: Path, tmp_path: Path) -> None:
    ours = run(KINDS[kind], folder, tmp_path / "ours")

    recipe = yaml.safe_load(on_folders(KINDS[kind], folder))
    mergekit({**recipe, "dtype": "float32", "out_dtype": recipe["dtype"]}, tmp_path / "theirs")
    theirs = tensors(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    plan = make_plan(read_recipe(on_folders(KINDS[kind], folder)))
    for tensor in plan.tensors:
        sure = ~chosen_among_equals(tensor, plan)
        merged, expected = ours[tensor.name], theirs[tensor.name]
        assert merged.dtype == expected.dtype == getattr(torch, recipe["dtype"])
        torch.testing.assert_close(
            merged.float()[sure], expected.float()[sure], rtol=torch.finfo(merged.dtype).eps, atol=2e-7
        )


@pytest.mark.parametrize("text", [CHAIN, FUSION], ids=["chain", "fusion"])
def test_kinds_that_are_compared_elsewhere(text: str, folder: Path, tmp_path: Path) -> None:
    assert len(run(text, folder, tmp_path / "ours")) == 3 + 48 * 9

"""Where Alloy differs from mergekit on purpose: docs/mergekit.md lists it, and each line has a test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from merging import METHODS, Plan, make_plan, read_recipe, run_plan
from tests import ROOT
from tests.merging.methods.whole import merge_by_engine
from tests.tiny import tiny_llama

# How each line of the list begins, and a test that fails where it is not true.
TESTS = {
    "All arithmetic is float32": "test_arithmetic_is_float32_whatever_is_asked_for",
    "Keys that mergekit ignores": "test_what_was_meant_is_never_lost",
    "Values out of range": "test_a_value_beyond_a_limit_counts_as_the_limit",
    "Tensors that a parent works without": "test_what_a_model_works_without_is_taken_over",
    "Parents of one class": "test_two_generations",
    "Config, tokenizer and order": "test_the_config_is_that_of_the_first_model",
    "If a parent has an output head": "test_a_head_of_its_own_makes_the_result_untied",
    "Layer counts": "test_stacking_rebuilds_lists_that_have_an_entry_a_layer",
    "A union starts": "test_a_union_has_every_token_and_the_row_of_its_only_owner",
    "A part of a model": "test_every_stacked_layer_stands_where_it_should",
    "A slice without layers": "test_a_slice_without_layers_is_refused",
    "The norm and the head": "test_norm_and_head_come_from_all_sources_of_the_last_slice",
    "A model that is named twice": "test_a_model_that_is_named_twice_counts_twice",
    "DARE draws": "test_dare_keeps_the_share_that_is_asked_for_and_divides_by_it",
    "DELLA divides": "test_della_keeps_by_rank_in_the_row_and_divides_by_the_chance",
    "DELLA counts": "test_della_gives_equal_magnitudes_equal_chances",
    "SCE weighs": "test_sce_weighs_models_by_their_squares_however_small",
    "Of entries whose variance": "test_sce_takes_the_first_of_entries_that_differ_alike",
    "Arcee Fusion": "test_arcee_fusion_writes_the_type_that_is_asked_for",
    "Iso-C and TSV-Merge": "test_kernels_and_embeddings_are_averaged",
    "Multi-SLERP": "test_multislerp_of_opposite_models_is_their_sum",
    "Model Stock": "test_model_stock_sees_the_angle_of_small_tensors",
    "Breadcrumbs": "test_breadcrumbs_without_outliers_are_the_largest",
    "TIES keeps": "test_ties_keeps_the_first_of_equal_magnitudes",
    "`base+adapter`": "test_base_and_adapter_alone_make_a_model_in_the_dtype_of_the_base",
    "A tied model": "test_a_tied_model_answers_as_it_did_under_its_adapter",
    "The scale of an adapter": ("test_a_scale_of_zero_gives_the_base_back_and_a_half_goes_half_way"),
    "`passthrough`": "test_passthrough_with_an_unlisted_base_takes_its_config",
}


def differences() -> list[str]:
    page = (ROOT / "docs" / "mergekit.md").read_text(encoding="utf-8")
    return re.findall(r"^- (.+)", page, re.MULTILINE)


def test_every_difference_has_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for line in differences():
        [test] = [test for begin, test in TESTS.items() if line.startswith(begin)]
        assert f"def {test}(" in tests
    assert len(differences()) == len(TESTS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0, tie_word_embeddings=False)
    for seed, name in enumerate("ab", 1):
        tiny_llama(folder / name, seed, base, tie_word_embeddings=False)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps({**config, "from": name}))
    return folder


def merge(recipe: dict[str, Any], to: Path) -> tuple[Plan, dict[str, torch.Tensor]]:
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(to))
    assert plan.problems == ()
    run_plan(plan, str(to), workers=1)
    return plan, load_file(to / "model.safetensors")


def test_arithmetic_is_float32_whatever_is_asked_for(models: Path, tmp_path: Path) -> None:
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(models / "base"),
        "models": [{"model": str(models / name)} for name in "ab"],
        "parameters": {"weight": 0.3},
    }
    _, rounded = merge({**recipe, "dtype": "bfloat16"}, tmp_path / "rounded")
    _, precise = merge({**recipe, "dtype": "float32"}, tmp_path / "precise")

    in_16_bits = 0
    parents = [load_file(models / name / "model.safetensors") for name in ("base", "a", "b")]
    for name, tensor in precise.items():
        assert torch.equal(rounded[name], tensor.bfloat16())
        base, a, b = (parent[name] for parent in parents)
        in_16_bits += int((base + ((a - base) * 0.3 + (b - base) * 0.3) != rounded[name]).sum())
    assert in_16_bits > 0


def test_the_config_is_that_of_the_first_model(models: Path) -> None:
    for names in ("ab", "ba"):
        entries = [{"model": str(models / name), "parameters": {"weight": 1}} for name in names]
        plan = make_plan(read_recipe(yaml.safe_dump({"merge_method": "linear", "models": entries})))

        assert json.loads(plan.files["config.json"])["from"] == names[0]
        assert [Path(model.name).name for model in plan.models] == list(names)


def test_norm_and_head_come_from_all_sources_of_the_last_slice(models: Path, tmp_path: Path) -> None:
    one = {"model": str(models / "base"), "layer_range": [0, 2], "parameters": {"weight": 1}}
    two = [{"model": str(models / name), "layer_range": [2, 4], "parameters": {"weight": 1}} for name in "ab"]
    recipe = {"merge_method": "linear", "slices": [{"sources": [one]}, {"sources": two}], "dtype": "float32"}

    _, merged = merge(recipe, tmp_path / "out")

    base, a, b = (load_file(models / name / "model.safetensors") for name in ("base", "a", "b"))
    for name in ("model.norm.weight", "lm_head.weight"):
        torch.testing.assert_close(merged[name], (a[name].float() + b[name].float()) / 2)
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"].float())


def test_a_model_that_is_named_twice_counts_twice(models: Path, tmp_path: Path) -> None:
    sources = [
        {"model": str(models / name), "layer_range": [layer, layer + 1], "parameters": {"weight": weight}}
        for name, layer, weight in (("a", 0, 1), ("a", 1, 2), ("b", 0, 1))
    ]
    recipe = {"merge_method": "linear", "slices": [{"sources": sources}], "dtype": "float32"}

    _, merged = merge(recipe, tmp_path / "out")

    a, b = (load_file(models / name / "model.safetensors") for name in "ab")
    name = "model.layers.{}.mlp.up_proj.weight"
    first, second, third = (t.float() for t in (a[name.format(0)], a[name.format(1)], b[name.format(0)]))
    torch.testing.assert_close(merged[name.format(0)], (first + 2 * second + third) / 4)


def test_model_stock_sees_the_angle_of_small_tensors() -> None:
    base = torch.zeros(2)
    changes = torch.tensor([1.0, 0.0]), torch.tensor([0.8, 0.6])

    merged = merge_by_engine(
        METHODS["model_stock"], [base, *(1e-5 * change for change in changes)], {"filter_wise": False}
    )

    # The cosine is 0.8, so it goes 2 * 0.8 / 1.8 of the way to the mean, as it would at any size.
    torch.testing.assert_close(merged / 1e-5, 1.6 / 1.8 * torch.tensor([0.9, 0.3]))


def test_passthrough_with_an_unlisted_base_takes_its_config(models: Path, tmp_path: Path) -> None:
    recipe = {
        "merge_method": "passthrough",
        "base_model": str(models / "b"),
        "models": [{"model": str(models / "a")}],
    }

    plan, merged = merge(recipe, tmp_path / "out")

    assert json.loads(plan.files["config.json"])["from"] == "b"
    a = load_file(models / "a/model.safetensors")
    assert all(torch.equal(merged[name], a[name]) for name in a)

"""Any architecture, without a table: merged, stacked, loaded by transformers, and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from safetensors.torch import load_file, save_file

from merging import Plan, make_plan, read_recipe, run_plan
from tests.families import FAMILIES, outputs, save_family, save_unknown
from tests.merging.test_against_mergekit import mergekit

every_family = pytest.mark.parametrize("family", FAMILIES)
TOWERS = {"t5": ("encoder", "decoder"), "whisper": ("encoder", "decoder")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        for seed, name in enumerate("ab"):
            save_family(family, folder / family / name, seed)
    return folder


def merge(recipe: dict[str, Any], to: Path) -> Plan:
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(to))
    assert plan.problems == ()
    run_plan(plan, str(to))
    return plan


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def load(path: Path, family: str) -> hf.PreTrainedModel:
    """The model; every tensor of the file is used, and none is made up."""
    model_class = getattr(hf, json.loads((path / "config.json").read_text())["architectures"][0])
    model, report = model_class.from_pretrained(path, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model


@every_family
def test_a_family_is_averaged(family: str, folder: Path, tmp_path: Path) -> None:
    parents = [folder / family / name for name in "ab"]
    models = [{"model": str(parent), "parameters": {"weight": 0.5}} for parent in parents]
    merge({"merge_method": "linear", "models": models}, tmp_path / "out")

    a, b = map(weights, parents)
    merged = weights(tmp_path / "out")
    assert merged.keys() == a.keys()
    for name in merged:
        torch.testing.assert_close(merged[name], (a[name] + b[name]) / 2)
    assert outputs(load(tmp_path / "out", family)).isfinite().all()


@every_family
def test_a_family_is_stacked(family: str, folder: Path, tmp_path: Path) -> None:
    """Layers 0 and 1 of one model, then the last two of the other (the last of a stack of two)."""
    a, b = (str(folder / family / name) for name in "ab")

    def slices(count: int) -> list[dict[str, Any]]:
        first = {"model": a, "layer_range": [0, 2]}
        return [{"sources": [first]}, {"sources": [{"model": b, "layer_range": [1, count]}]}]

    recipe: dict[str, Any] = {"merge_method": "passthrough"}
    if family in TOWERS:
        depths = [3, 2] if family == "whisper" else [3, 3]
        recipe["modules"] = {
            tower: {"slices": slices(count)} for tower, count in zip(TOWERS[family], depths, strict=True)
        }
        recipe["base_model"] = a
    else:
        recipe["slices"] = slices(3)
    plan = merge(recipe, tmp_path / "out")

    assert plan.only_copies
    model = load(tmp_path / "out", family)
    assert outputs(model).isfinite().all()
    merged, ours, theirs = weights(tmp_path / "out"), weights(Path(a)), weights(Path(b))
    assert sum(t.numel() for t in merged.values()) > sum(t.numel() for t in ours.values())
    for tensor in plan.tensors:
        [part] = tensor.inputs
        source = ours if plan.models[part.model].name == a else theirs
        assert torch.equal(merged[tensor.name], source[part.tensor])


def test_every_stacked_layer_stands_where_it_should(folder: Path, tmp_path: Path) -> None:
    """The same by PyTorch: modules of live models put into one list."""
    a, b = (hf.T5ForConditionalGeneration.from_pretrained(folder / "t5" / name) for name in "ab")
    slices = [
        {"sources": [{"model": str(folder / "t5/a"), "layer_range": [0, 2]}]},
        {"sources": [{"model": str(folder / "t5/b"), "layer_range": [1, 3]}]},
    ]
    recipe = {
        "merge_method": "passthrough",
        "base_model": str(folder / "t5/a"),
        "modules": {"decoder": {"slices": slices}},
    }
    plan = merge(recipe, tmp_path / "out")

    taken = {problem.message for problem in plan.warnings if problem.code == "module-taken-over"}
    assert len(taken) == 2  # the encoder and the shared embedding
    merged = load(tmp_path / "out", "t5")
    assert (merged.config.num_layers, merged.config.num_decoder_layers) == (3, 4)
    expected = [*a.decoder.block[:2], *b.decoder.block[1:]]
    for ours, theirs in zip(merged.decoder.block[1:], expected[1:], strict=True):
        for name, tensor in ours.state_dict().items():
            if "relative" not in name:
                assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_a_gradient_runs_over_each_tower(folder: Path, tmp_path: Path) -> None:
    models = [str(folder / "llava" / name) for name in "ab"]
    recipe = {
        "merge_method": "slerp",
        "base_model": models[0],
        "models": [{"model": model} for model in models],
        "parameters": {"t": [0, 1]},
    }
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), None)

    def model_of(name: str) -> tuple[int, ...]:
        return tuple(part.model for part in next(t for t in plan.tensors if t.name == name).inputs)

    for prefix in ("vision_tower.encoder.layers.", "language_model.model.layers."):
        norm = "layer_norm1.weight" if "vision" in prefix else "input_layernorm.weight"
        assert [model_of(f"{prefix}{layer}.{norm}") for layer in range(3)] == [(0,), (0, 1), (1,)]
    assert model_of("multi_modal_projector.linear_1.weight") == (0,)


def test_modules_of_a_vision_language_model_by_the_names_that_people_use(folder: Path) -> None:
    a, b = (str(folder / "qwen2-vl" / name) for name in "ab")
    parts = {"text_decoder": {"models": [{"model": b}]}, "vision_tower": {"models": [{"model": a}]}}
    recipe = {"merge_method": "passthrough", "base_model": a, "modules": parts}

    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), None)

    assert plan.problems == ()
    assert "module-taken-over" not in [problem.code for problem in plan.warnings]
    assert {t.name.split(".")[0]: t.inputs[0].model for t in plan.tensors} == {
        "model": 1,
        "lm_head": 1,
        "visual": 0,
    }


def test_a_language_model_goes_into_a_vision_language_model(folder: Path, tmp_path: Path) -> None:
    """The same layers under other names: `model.layers.` alone, `language_model.model.layers.` inside."""
    vlm, llm = folder / "llava/a", folder / "llama/b"
    models = [{"model": str(model), "parameters": {"weight": 1}} for model in (vlm, llm)]
    recipe = {
        "merge_method": "linear",
        "base_model": str(vlm),
        "modules": {"text_decoder": {"models": models}},
    }
    merge(recipe, tmp_path / "out")

    merged, theirs, ours = weights(tmp_path / "out"), weights(vlm), weights(llm)
    for name in merged:
        own = ours.get(name.removeprefix("language_model."))
        expected = theirs[name] if own is None else (theirs[name] + own) / 2
        torch.testing.assert_close(merged[name], expected)
    assert outputs(load(tmp_path / "out", "llava")).isfinite().all()


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        ({"slices": [{"sources": [{"model": "t5/a", "layer_range": [0, 2]}]}]}, "several-stacks"),
        ({"modules": {"tail": {"models": [{"model": "t5/a"}]}}}, "unknown-module"),
        (
            {"modules": {"encoder": {"models": [{"model": "whisper/a"}]}}, "base_model": "t5/a"},
            "unexpected-keys",
        ),
        ({"models": [{"model": "qwen2/a"}], "base_model": "llama/a"}, "unexpected-keys"),
        ({"models": [{"model": "gemma3/a"}], "base_model": "qwen3/a"}, "unexpected-keys"),
        (
            {"modules": {"vision_tower": {"models": [{"model": "llama/a"}]}}, "base_model": "llava/a"},
            "missing-module",
        ),
        ({"models": [{"model": "llama/a"}], "base_model": "llava/a"}, "missing-module"),
    ],
)
def test_modules_that_do_not_fit(folder: Path, recipe: dict[str, Any], code: str) -> None:
    text = yaml.safe_dump({"merge_method": "passthrough", **recipe})
    for family in FAMILIES:
        text = text.replace(f"{family}/", f"{folder}/{family}/")

    plan = make_plan(read_recipe(text), None)

    assert code in [problem.code for problem in plan.problems]
    assert all(problem.fix for problem in plan.problems)


def test_an_architecture_that_no_library_knows(tmp_path: Path) -> None:
    a, b = save_unknown(tmp_path / "a", 1), save_unknown(tmp_path / "b", 2)
    models = [{"model": str(model), "parameters": {"weight": 1}} for model in (a, b)]
    merge({"merge_method": "linear", "models": models}, tmp_path / "mean")
    slices = [
        {"sources": [{"model": str(a), "layer_range": [0, 3]}]},
        {"sources": [{"model": str(b), "layer_range": [2, 3]}]},
    ]
    merge({"merge_method": "passthrough", "slices": slices}, tmp_path / "tall")

    first, second, mean = weights(a), weights(b), weights(tmp_path / "mean")
    for name, tensor in mean.items():
        assert tensor.dtype == first[name].dtype  # each keeps its own
        expected = ((first[name].float() + second[name].float()) / 2).to(tensor.dtype)
        torch.testing.assert_close(tensor, expected)
    tall = weights(tmp_path / "tall")
    assert torch.equal(tall["tower.3.cube"], second["tower.2.cube"])
    assert torch.equal(tall["exit.steps"], first["exit.steps"])
    config = json.loads((tmp_path / "tall/config.json").read_text())
    assert (config["n_layers"], config["gates"]) == (4, [10, 11, 12, 12])


def test_lists_of_layers_that_are_special_follow_the_stack(folder: Path, tmp_path: Path) -> None:
    source = folder / "qwen3-moe/a"
    config = json.loads((source / "config.json").read_text())
    path = tmp_path / "a"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**config, "mlp_only_layers": [1]}))
    (path / "model.safetensors").symlink_to(source / "model.safetensors")
    slices = [{"sources": [{"model": str(path), "layer_range": span}]} for span in ([0, 2], [1, 3])]

    plan = make_plan(read_recipe(yaml.safe_dump({"merge_method": "passthrough", "slices": slices})), None)

    assert json.loads(plan.files["config.json"])["mlp_only_layers"] == [1, 2]


def test_lists_inside_a_nested_config_follow_the_stack_of_their_tower(folder: Path) -> None:
    model = str(folder / "gemma3-vl/a")
    before = json.loads((folder / "gemma3-vl/a/config.json").read_text())
    slices = [{"sources": [{"model": model, "layer_range": span}]} for span in ([1, 3], [0, 2])]

    plan = make_plan(read_recipe(yaml.safe_dump({"merge_method": "passthrough", "slices": slices})), None)

    config = json.loads(plan.files["config.json"])
    kinds = before["text_config"]["layer_types"]
    assert len(set(kinds)) > 1
    assert config["text_config"]["num_hidden_layers"] == 4
    assert config["text_config"]["layer_types"] == [*kinds[1:3], *kinds[0:2]]
    assert config["vision_config"] == before["vision_config"]
    assert not any("lm_head" in tensor.name for tensor in plan.tensors)  # tied


def test_tables_that_loaders_compute_may_be_missing_somewhere(folder: Path, tmp_path: Path) -> None:
    """Llama checkpoints from 2023 bring `inv_freq`, later ones of the same model do not."""
    old = tmp_path / "old"
    old.mkdir()
    tensors = weights(folder / "llama/a")
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in range(3)}
    save_file({**tensors, **extra}, old / "model.safetensors", {"format": "pt"})
    (old / "config.json").write_text((folder / "llama/a/config.json").read_text())
    models = [{"model": str(m), "parameters": {"weight": 1}} for m in (old, folder / "llama/b")]

    plan = merge({"merge_method": "linear", "models": models}, tmp_path / "out")

    assert [problem.code for problem in plan.warnings].count("derived-tensor") == 1
    assert outputs(load(tmp_path / "out", "llama")).isfinite().all()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "family", ["qwen2", "qwen3-moe", "gemma2", "gemma3", "phi3", "gpt2", "mamba", "lfm2"]
)
def test_a_family_comes_out_as_from_mergekit(family: str, folder: Path, tmp_path: Path) -> None:
    """Those that mergekit can merge. It may write other names for the same weights, which loading makes equal."""
    models = [str(folder / family / name) for name in "ab"]
    recipe = {
        "merge_method": "slerp",
        "base_model": models[0],
        "models": [{"model": model} for model in models],
        "parameters": {"t": [{"filter": "attn", "value": [0.2, 0.9]}, {"value": [0.7, 0.1, 0.4]}]},
        "dtype": "float32",
    }
    merge(recipe, tmp_path / "ours")
    mergekit(recipe, tmp_path / "theirs")

    ours, theirs = (load(tmp_path / name, family).state_dict() for name in ("ours", "theirs"))
    packed = "experts"  # stored apart, merged packed: another matrix for a method that looks at whole ones
    for name in ours:
        if packed not in name:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)

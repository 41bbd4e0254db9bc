"""Stacks of layers that are not alike: the result loads, with every layer of its source's kind, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from checkpoints.built_model import build
from merging import Plan, make_plan, read_recipe, run_plan

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 128,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "head_dim": 8}


def save(
    config: transformers.PretrainedConfig, to: Path, without: tuple[str, ...] = (), **changes: Any
) -> Path:
    """A tiny model whose config.json lacks some keys and has others."""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(to)
    written = json.loads((to / "config.json").read_text())
    kept = {key: value for key, value in written.items() if key not in without}
    (to / "config.json").write_text(json.dumps({**kept, **changes}))
    return to


def plan_of(model: Path, to: Path, *ranges: tuple[int, int]) -> Plan:
    slices = [{"sources": [{"model": str(model), "layer_range": [*one]}]} for one in ranges]
    recipe = {"merge_method": "passthrough", "slices": slices, "dtype": "float32"}
    return make_plan(read_recipe(yaml.safe_dump(recipe)), str(to))


def kinds(folder: Path) -> list[str]:
    [built] = build([json.loads((folder / "config.json").read_text())])
    assert built
    return built.kinds_of("model.layers.", len(built.layers["model.layers"]))


def gemma2() -> transformers.PretrainedConfig:
    return transformers.Gemma2Config(**TEXT, head_dim=8, sliding_window=8)


@pytest.mark.parametrize(
    ("config", "without", "changes"),
    [
        (gemma2, ("layer_types",), {}),  # alternates by the class's default
        (
            lambda: transformers.Cohere2Config(**{**TEXT, "num_hidden_layers": 8}, sliding_window=8),
            ("layer_types",),
            {"sliding_window_pattern": 4},
        ),
        (
            lambda: transformers.Gemma4TextConfig(
                **{**TEXT, "num_hidden_layers": 6},
                hidden_size_per_layer_input=0,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
                num_kv_shared_layers=0,
                sliding_window=8,
            ),
            (),
            {},
        ),
    ],
    ids=["by default", "period", "keyed by layer"],
)
def test_every_layer_keeps_its_kind(
    tmp_path: Path, config: Any, without: tuple[str, ...], changes: Any
) -> None:
    model = save(config(), tmp_path / "model", without, **changes)
    layers = len(kinds(model))
    plan = plan_of(model, tmp_path / "out", (0, 3), (2, layers))

    run_plan(plan, str(tmp_path / "out"))

    before, after = kinds(model), kinds(tmp_path / "out")
    assert len(set(before)) > 1
    assert after == [before[layer] for layer in [*range(3), *range(2, layers)]]
    _, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


def test_a_number_that_cannot_follow_is_refused_by_its_key(tmp_path: Path) -> None:
    config = transformers.Glm4MoeConfig(
        **TEXT,
        **EXPERTS,
        n_routed_experts=4,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    )
    model = save(config, tmp_path / "model")

    [problem] = plan_of(model, tmp_path / "out", (0, 2), (0, 4)).problems

    assert problem.code == "first-layers"
    assert "first_k_dense_replace: 1" in problem.message
    assert plan_of(model, tmp_path / "out", (0, 2), (1, 4)).ok


def test_without_transformers_only_what_the_config_says_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(gemma2(), tmp_path / "model", ("layer_types",), sliding_window_pattern=2)
    assert plan_of(model, tmp_path / "out", (0, 3), (2, 4)).ok
    monkeypatch.setattr("merging.planning.stacks.build", lambda configs: [None] * len(configs))

    [problem] = plan_of(model, tmp_path / "out", (0, 3), (2, 4)).problems

    assert problem.code == "layer-period"
    assert plan_of(model, tmp_path / "out", (0, 2), (0, 4)).ok


def test_tensors_that_differ_by_layer_must_be_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(transformers.LlamaConfig(**TEXT), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, "model.layers.2.extra.weight": torch.ones(2)}, model / "model.safetensors")
    monkeypatch.setattr("merging.planning.stacks.build", lambda configs: [None] * len(configs))

    [problem] = plan_of(model, tmp_path / "out", (0, 3), (2, 4)).problems

    assert problem.code == "layer-kinds"


def test_layers_behind_the_last_one_stay_behind(tmp_path: Path) -> None:
    model = save(transformers.LlamaConfig(**TEXT), tmp_path / "model")
    extra = {
        "model.layers.4.eh_proj.weight": torch.ones(2),
        "model.layers.4.embed_tokens.weight": torch.ones(3),
    }
    save_file({**load_file(model / "model.safetensors"), **extra}, model / "model.safetensors")
    plan = plan_of(model, tmp_path / "out", (0, 3), (2, 4))

    run_plan(plan, str(tmp_path / "out"))

    assert [warning.code for warning in plan.warnings].count("moved-tensor") == 1
    written = load_file(tmp_path / "out/model.safetensors")
    assert {name for name in written if name.startswith("model.layers.5.")} == {
        "model.layers.5.eh_proj.weight",
        "model.layers.5.embed_tokens.weight",
    }


def test_layers_behind_the_last_one_of_two_models(tmp_path: Path) -> None:
    """The first model's are taken; those of the second have their place in its config, too."""
    models = [save(transformers.LlamaConfig(**TEXT), tmp_path / name) for name in "ab"]
    for number, model in enumerate(models):
        extra = {
            f"model.layers.{layer}.{part}.weight": torch.full((2,), float(number))
            for layer in (4, 5)
            for part in ("eh_proj", "embed_tokens")
        }
        save_file({**load_file(model / "model.safetensors"), **extra}, model / "model.safetensors")
    slices = [
        {"sources": [{"model": str(model), "layer_range": layers}]}
        for model, layers in zip(models, ([0, 3], [1, 4]), strict=True)
    ]
    recipe = {"merge_method": "passthrough", "slices": slices, "dtype": "float32"}
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(tmp_path / "out"))

    run_plan(plan, str(tmp_path / "out"))

    written = load_file(tmp_path / "out/model.safetensors")
    behind = {name: float(tensor[0]) for name, tensor in written.items() if tensor.shape == (2,)}
    assert behind == {
        f"model.layers.{layer}.{part}.weight": value
        for layer in (6, 7)
        for part, value in (("eh_proj", 1.0), ("embed_tokens", 0.0))
    }


def test_layers_of_other_settings_are_refused_by_these(tmp_path: Path) -> None:
    """It is not their order that is wrong."""
    a, b = (
        save(transformers.LlamaConfig(**TEXT, hidden_act=act), tmp_path / act) for act in ("silu", "gelu")
    )
    slices = [
        {"sources": [{"model": str(model), "layer_range": layers}]}
        for model, layers in ((a, [0, 2]), (b, [2, 4]))
    ]
    plan = make_plan(read_recipe(yaml.safe_dump({"merge_method": "passthrough", "slices": slices})))

    [problem] = plan.problems

    assert problem.code == "layer-settings"
    assert problem.values["settings"] == ["hidden_act: silu and gelu"]


def test_a_head_for_each_layer_cannot_follow(tmp_path: Path) -> None:
    model = save(transformers.LlamaConfig(**TEXT), tmp_path / "model")
    heads = {f"model.exit_heads.{layer}.weight": torch.ones(2) for layer in range(4)}
    save_file({**load_file(model / "model.safetensors"), **heads}, model / "model.safetensors")

    [problem] = plan_of(model, tmp_path / "out", (0, 3), (1, 4)).problems

    assert (problem.code, problem.where) == ("table-of-layers", "model.exit_heads.*")


def test_an_encoder_and_a_decoder_that_count_by_other_names(tmp_path: Path) -> None:
    sizes = {
        f"{part}_{key}": 4
        for part in ("encoder", "decoder")
        for key in ("num_hidden_layers", "num_attention_heads")
    }
    config = transformers.MoonshineConfig(vocab_size=96, hidden_size=32, intermediate_size=48, **sizes)
    torch.manual_seed(0)
    transformers.MoonshineForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    slices = [
        {"sources": [{"model": str(tmp_path / "model"), "layer_range": layers}]}
        for layers in ([0, 3], [2, 4])
    ]
    whole = {"slices": [{"sources": [{"model": str(tmp_path / "model"), "layer_range": [0, 4]}]}]}
    recipe = {"merge_method": "passthrough", "modules": {"decoder": {"slices": slices}, "encoder": whole}}
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(tmp_path / "out"))

    run_plan(plan, str(tmp_path / "out"))

    made, info = transformers.MoonshineForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values())
    assert (made.config.encoder_num_hidden_layers, made.config.decoder_num_hidden_layers) == (4, 5)


def test_numbers_that_json_lacks_are_read(tmp_path: Path) -> None:
    """transformers writes `{"__float__": "Infinity"}`; a config that cannot be built is not judged."""
    config = transformers.BambaConfig(
        **TEXT, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1
    )
    model = save(config, tmp_path / "model")
    assert "__float__" in (model / "config.json").read_text()

    assert len(set(kinds(model))) == 2


@pytest.mark.parametrize("ranges", [[(0, 0), (0, 4)], [(0, 2), (3, 3), (2, 4)], [(2, 2)]])
def test_a_slice_without_layers_is_refused(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    model = save(transformers.LlamaConfig(**TEXT), tmp_path / "model")

    assert "empty-slice" in [p.code for p in plan_of(model, tmp_path / "out", *ranges).problems]


def test_a_last_slice_may_only_keep_the_head(tmp_path: Path) -> None:
    model = save(transformers.LlamaConfig(**TEXT), tmp_path / "model")

    assert plan_of(model, tmp_path / "out", (0, 4), (4, 4)).ok
    assert plan_of(model, tmp_path / "out", (0, 4), (0, 0)).ok


def saved_whole(model: transformers.PreTrainedModel, to: Path) -> Path:
    model.save_pretrained(to)
    return to


def test_a_class_that_has_its_own_number_of_layers_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a MobileNet the class says how many layers there are, and no config changes it."""
    config = transformers.MobileNetV1Config(depth_multiplier=0.25, image_size=32)
    model = saved_whole(transformers.MobileNetV1ForImageClassification(config), tmp_path / "a")

    [problem] = plan_of(model, tmp_path / "out", (0, 4)).problems
    assert (problem.code, problem.values) == ("layer-count", {"built": 26, "count": 4})
    assert plan_of(model, tmp_path / "out", (0, 10), (10, 26)).ok

    monkeypatch.setattr("checkpoints.built_model.importlib.util.find_spec", lambda name: None)
    [problem] = plan_of(model, tmp_path / "out", (0, 4)).problems
    assert (problem.code, problem.values) == ("layer-count-unstated", {"before": 26, "count": 4})


def test_a_config_that_its_class_refuses_is_no_result(tmp_path: Path) -> None:
    """The depths of a PP-LCNet are a list of five, one for each stage."""
    model = saved_whole(
        transformers.PPLCNetForImageClassification(transformers.PPLCNetConfig(scale=0.25)), tmp_path / "a"
    )

    [problem] = plan_of(model, tmp_path / "out", (0, 3)).problems

    assert problem.code == "layers-not-built"
    assert "stage" in problem.values["reason"]

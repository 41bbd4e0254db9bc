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


@pytest.mark.parametrize("ranges", [[(0, 0), (0, 4)], [(0, 2), (3, 3), (2, 4)], [(2, 2)]])
def test_a_slice_without_layers_is_refused(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    model = save(transformers.LlamaConfig(**TEXT), tmp_path / "model")

    assert "empty-slice" in [p.code for p in plan_of(model, tmp_path / "out", *ranges).problems]


def test_a_last_slice_may_only_keep_the_head(tmp_path: Path) -> None:
    model = save(transformers.LlamaConfig(**TEXT), tmp_path / "model")

    assert plan_of(model, tmp_path / "out", (0, 4), (4, 4)).ok
    assert plan_of(model, tmp_path / "out", (0, 4), (0, 0)).ok

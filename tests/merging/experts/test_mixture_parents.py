"""Mixtures of models under adapters, on the Hub, and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merging import make_plan, read_recipe, route_prompts, run_plan
from searching.live_merge import LiveMerge
from tests.hub import Hub
from tests.merges import weight_files, weights, without_pauses
from tests.merging.experts.dense import LAYERS, dense, made, recipe
from tests.merging.test_adapters import adapter, with_peft


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    for seed, name in enumerate(("base", "a")):
        dense(folder / name, "llama", seed)
    adapter(folder / "base", folder / "mlp", 1, target_modules=["up_proj", "q_proj"])
    adapter(folder / "base", folder / "attention", 2, target_modules=["q_proj", "v_proj"])
    return folder


@pytest.fixture
def ann(hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user who has those models on the Hub, privately; returns the token."""
    token = hub.add_user("ann")
    for name in ("base", "a"):
        hub.put(f"ann/{name}", models / name, private=True)
    hub.log.clear()
    without_pauses(monkeypatch)
    return token


def test_adapters_are_experts(models: Path, tmp_path: Path) -> None:
    base = models / "base"

    plan = made(recipe(base, [f"{base}+{models / 'mlp'}", models / "a"], dtype="float32"), tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")
    right = with_peft(base, models / "mlp")
    for layer in range(LAYERS):
        own = found[f"model.layers.{layer}.block_sparse_moe.experts.0.w3.weight"]
        wanted = right[f"model.layers.{layer}.mlp.up_proj.weight"]
        torch.testing.assert_close(own, wanted)
        attention = found[f"model.layers.{layer}.self_attn.q_proj.weight"]
        plain = load_file(base / "model.safetensors")[f"model.layers.{layer}.self_attn.q_proj.weight"]
        assert torch.equal(attention, plain.float())
    assert not [warning for warning in plan.warnings if warning.code == "adapter-outside-experts"]


def test_an_adapter_of_attention_alone_is_warned_of(models: Path) -> None:
    base = models / "base"
    experts = [f"{base}+{models / 'attention'}", f"{base}+{models / 'mlp'}"]

    plan = make_plan(read_recipe(recipe(base, experts)))
    averaged = make_plan(read_recipe(recipe(base, experts, shared_weights="average")))

    [warning] = [warning for warning in plan.warnings if warning.code == "adapter-outside-experts"]
    assert warning.values["adapters"] == [str(models / "attention")]
    assert "adapter-outside-experts" not in [warning.code for warning in averaged.warnings]


def test_from_hub_to_hub(models: Path, hub: Hub, ann: str, tmp_path: Path) -> None:
    """The routers are those of the folders, and no model is stored."""
    made(recipe(models / "base", [models / "base", models / "a"], gate_mode="router"), tmp_path / "right")
    text = recipe(Path("ann/base"), ["ann/base", "ann/a"], gate_mode="router")
    to = "hf://ann/mixture"
    plan = make_plan(read_recipe(text), to, token=ann)
    assert plan.problems == ()

    run_plan(plan, to, token=ann)

    assert weights(hub, "ann/mixture") == weight_files(tmp_path / "right")
    routing = route_prompts(read_recipe(text), token=ann)
    assert routing.experts == ("ann/base", "ann/a")


def test_a_mixture_is_tried_in_memory_and_follows_its_recipe(models: Path, tmp_path: Path) -> None:
    text = recipe(models / "base", [models / "base", models / "a"], gate_mode="router")
    changed = text.replace("number 0", "another text").replace("number 1", "and one more")
    for name, one in (("first", text), ("second", changed)):
        made(one, tmp_path / name)

    with LiveMerge(read_recipe(text)) as live:
        network = live.model.network
        for name, one in (("first", text), ("second", changed)):
            live.update(read_recipe(one))
            found = load_file(tmp_path / name / "model.safetensors")
            for layer in range(LAYERS):
                wanted = found[f"model.layers.{layer}.block_sparse_moe.gate.weight"].float()
                assert torch.equal(network.model.layers[layer].mlp.gate.weight, wanted), name

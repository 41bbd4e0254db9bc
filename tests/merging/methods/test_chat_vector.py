"""Chat Vector on models whose vocabularies differ: who is who, and what stays as the target has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from checkpoints.architecture import role_of
from merging import Plan, make_plan, read_recipe, run_plan
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0)
    chat = tiny_llama(folder / "chat", 1, base)
    return {
        "base": base,
        "chat": chat,
        "grown": tiny_llama(folder / "grown", 2, vocab_size=300, tie_word_embeddings=False),
    }


def plan_of(models: dict[str, Path], *names: str, **more: Any) -> Plan:
    entries = [{"model": str(models[name])} for name in names]
    recipe = {"merge_method": "chat_vector", "base_model": str(models["base"]), "models": entries}
    return make_plan(read_recipe(yaml.safe_dump(recipe | more)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_model_with_more_tokens_learns_to_chat(models: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_of(models, "grown", "chat", parameters={"weight": 0.5})
    assert plan.problems == ()
    run_plan(plan, str(tmp_path / "out"))

    merged, base, grown, chat = (
        weights(f) for f in (tmp_path / "out", *map(models.get, ("base", "grown", "chat")))
    )  # type: ignore[arg-type]
    assert merged.keys() == grown.keys()
    for name, tensor in merged.items():
        if role_of(name) == "layer":
            expected = grown[name].float() + 0.5 * (chat[name].float() - base[name].float())
            assert not torch.equal(tensor, grown[name])
            torch.testing.assert_close(tensor.float(), expected, rtol=2**-8, atol=1e-6)
        else:
            assert torch.equal(tensor, grown[name]), name
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (300, False)


def test_what_is_left_alone_gets_the_type_that_is_asked_for(models: dict[str, Path], tmp_path: Path) -> None:
    run_plan(plan_of(models, "grown", "chat", dtype="float32"), str(tmp_path / "out"))

    merged, grown = weights(tmp_path / "out"), weights(models["grown"])
    assert torch.equal(merged["lm_head.weight"], grown["lm_head.weight"].float())


def test_the_one_that_gives_has_the_vocabulary_of_the_base(models: dict[str, Path]) -> None:
    [problem] = plan_of(models, "chat", "grown").problems

    assert problem.code == "roles"
    assert "first" in problem.fix


def test_everywhere_needs_one_vocabulary(models: dict[str, Path]) -> None:
    plan = plan_of(models, "grown", "chat", parameters={"everywhere": True})

    assert {problem.code for problem in plan.problems} == {"vocabulary"}


def test_norms_alone_may_be_changed(models: dict[str, Path]) -> None:
    plan = plan_of(models, "grown", "chat", parameters={"everywhere": [{"filter": "norm", "value": True}]})

    copied = {tensor.name for tensor in plan.tensors if tensor.copied_from is not None}
    assert copied == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.layers.0.input_layernorm.weight", "norm"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("transformer.h.3.ln_1.bias", "norm"),
        ("transformer.ln_f.weight", "norm"),
        ("embeddings.LayerNorm.weight", "norm"),
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("embed_out.weight", "embedding"),
        ("lm_head.weight", "embedding"),
        ("model.layers.0.mlp.down_proj.weight", "layer"),
        ("model.layers.0.self_attn.lnear.weight", "layer"),
    ],
)
def test_the_role_of_a_tensor(name: str, role: str) -> None:
    assert role_of(name) == role

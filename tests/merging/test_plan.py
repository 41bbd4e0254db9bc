"""Plans as data: what identifies the bytes of a result, and what random draws begin with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from merging import Plan, make_plan, read_recipe
from merging.plan import Input
from tests.merges import merged, ties


def test_a_fingerprint_depends_on_what_is_in_which_file(folder: Path) -> None:
    whole, cut, again = (
        make_plan(read_recipe(ties(folder)), shard_size=size) for size in (10**9, 60_000, 10**9)
    )

    assert whole.fingerprint == again.fingerprint != cut.fingerprint
    [shard] = whole.shards
    other = replace(whole, shards=(replace(shard, filename="other.safetensors"),))
    assert other.fingerprint != whole.fingerprint


def test_a_plan_as_data_repeats_no_names_and_no_parameters_and_keeps_them_all(folder: Path) -> None:
    plan = make_plan(read_recipe(ties(folder)), shard_size=60_000)
    [shard, *others] = plan.shards
    first, second, third, *rest = shard.tensors
    odd = [
        replace(first, parameters={"weight": [1, 0.5]}),
        replace(second, parameters={"weight": [1.0, 0.5]}),
        replace(third, parameters={"weight": [True, 0.5]}, inputs=(Input(0, "other"), *third.inputs)),
    ]
    plan = replace(plan, shards=(replace(shard, tensors=(*odd, *rest)), *others))

    text = plan.to_json()
    again = Plan.from_json(text)

    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert {text.count(f'"{tensor.name}"') for other in others for tensor in other.tensors} == {1}


def test_random_draws_depend_on_the_seed_and_on_the_name_of_the_tensor(tmp_path: Path) -> None:
    """Two tensors of equal numbers in every model, merged twice: with one seed, and with another."""
    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2}
    for number, model in enumerate(("base", "tuned")):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").write_text(json.dumps(config))
        numbers = torch.full((40, 30), float(number))
        save_file({name: numbers.clone() for name in names}, tmp_path / model / "model.safetensors")

    def kept(seed: int) -> dict[str, torch.Tensor]:
        recipe = {
            "merge_method": "dare_linear",
            "base_model": str(tmp_path / "base"),
            "models": [{"model": str(tmp_path / "tuned")}],
            "parameters": {"weight": 1.0, "density": 0.5},
            "seed": seed,
        }
        merged(yaml.safe_dump(recipe), tmp_path / f"out{seed}")
        return load_file(tmp_path / f"out{seed}/model.safetensors")

    one, other = kept(1), kept(2)
    for drawn in (one, other):
        assert 0.4 < (drawn[names[0]] != 0).float().mean() < 0.6
        assert not torch.equal(drawn[names[0]], drawn[names[1]])
    assert not any(torch.equal(one[name], other[name]) for name in names)

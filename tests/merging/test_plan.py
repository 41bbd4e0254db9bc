"""Plans as data: what identifies the bytes of a result, and what random draws begin with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from merging import make_plan, read_recipe
from tests.merges import merged, ties


def test_a_fingerprint_depends_on_what_is_in_which_file(folder: Path) -> None:
    whole, cut, again = (
        make_plan(read_recipe(ties(folder)), shard_size=size) for size in (10**9, 60_000, 10**9)
    )

    assert whole.fingerprint == again.fingerprint != cut.fingerprint
    [shard] = whole.shards
    other = replace(whole, shards=(replace(shard, filename="other.safetensors"),))
    assert other.fingerprint != whole.fingerprint


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

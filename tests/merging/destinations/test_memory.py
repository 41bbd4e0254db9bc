"""Merging into a live model: the same answers as from a folder, and no file."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from merging import DestinationError, make_plan, merge_into_memory, read_recipe
from tests.hub import Hub
from tests.merges import merged, ties
from tests.tiny import tiny_llama

TOKENS = torch.tensor([[1, 2, 3, 250, 7]])


def same(model: torch.nn.Module, folder: Path) -> None:
    """The model gives the very logits of the one in the folder, and has its parameters and buffers."""
    other = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model(TOKENS).logits, other(TOKENS).logits)
    for ours, theirs in (
        (model.named_parameters(), other.named_parameters()),
        (model.named_buffers(), other.named_buffers()),
    ):
        found = dict(ours)
        for name, tensor in theirs:
            assert torch.equal(found.pop(name), tensor), name
        assert not found


@pytest.mark.parametrize("shard_size", [60_000, 10**9])
def test_the_model_is_the_one_of_a_folder(shard_size: int, folder: Path, tmp_path: Path) -> None:
    merged(ties(folder), tmp_path / "out", shard_size)

    model = merge_into_memory(make_plan(read_recipe(ties(folder)), shard_size=shard_size))

    same(model, tmp_path / "out")
    assert not model.training
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == 2


def test_tied_weights_are_one_and_untied_ones_two(tmp_path: Path, folder: Path) -> None:
    tied = merge_into_memory(make_plan(read_recipe(ties(folder))))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    for seed, name in enumerate("ab"):
        tiny_llama(tmp_path / name, seed, tie_word_embeddings=False, dtype=torch.float32)
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    text = yaml.safe_dump({"merge_method": "linear", "models": models})
    merged(text, tmp_path / "out")

    untied = merge_into_memory(make_plan(read_recipe(text)))

    same(untied, tmp_path / "out")
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    assert untied.dtype == torch.float32


def test_nothing_is_written_and_nothing_is_there_twice(hub: Hub, alice: str) -> None:
    plan = make_plan(read_recipe(ties("alice")), token=alice)
    merge_into_memory(plan, token=alice)  # what is imported for the first time may be cached as bytecode
    before = psutil.Process().io_counters().write_bytes

    model = merge_into_memory(plan, token=alice)

    # The tests' own output may fill a page or two; the model would be 80 of them.
    assert psutil.Process().io_counters().write_bytes - before <= 10 * 4096
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert len(storages) == len(plan.shards) == 1


def test_what_does_not_fit_is_refused_with_the_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(read_recipe(ties(folder)))
    needed = plan.bytes_out + plan.peak_memory_bytes
    free = [needed - 1]
    monkeypatch.setattr("merging.destinations.memory.free_memory", lambda: free[0])

    for told in (None, needed - 1):  # of the machine, and of the caller, who knows of a container
        with pytest.raises(
            DestinationError, match=f"need {needed:,} bytes of memory; {needed - 1:,} are free"
        ):
            merge_into_memory(plan, memory=told)
        free[0] = needed
    assert merge_into_memory(plan, memory=needed)


def test_a_model_that_transformers_does_not_know(tmp_path: Path, folder: Path) -> None:
    tiny_llama(tmp_path / "a", 0)
    config = tmp_path / "a/config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "LamaForCausalLM"))

    with pytest.raises(DestinationError, match="LamaForCausalLM"):
        merge_into_memory(
            make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {tmp_path / 'a'}}}]"))
        )


def test_a_tensor_that_the_model_needs_is_not_made_up(tmp_path: Path) -> None:
    """transformers fills what it misses with random numbers."""
    tiny_llama(tmp_path / "a", 0, num_hidden_layers=2)
    config = tmp_path / "a/config.json"
    config.write_text(config.read_text().replace('"attention_bias": false', '"attention_bias": true'))

    with pytest.raises(DestinationError, match=r"no fitting tensor for model.layers.0.self_attn.k_proj.bias"):
        merge_into_memory(
            make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {tmp_path / 'a'}}}]"))
        )

"""One storage under two names: a tensor that is tied, or two that are equal for now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from checkpoints import open_checkpoint, ties

LLAMA = LlamaConfig(
    vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1
)
TIED_LLAMA = LlamaConfig.from_dict({**LLAMA.to_dict(), "tie_word_embeddings": True})
T5 = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1)
GPT2 = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8)
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def pickled(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> set[str]:
    """The names that are read of a file of torch.save."""
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    return {*open_checkpoint(str(folder)).tensors}


def config_of(model: PreTrainedModel, *, says: bool | None) -> dict[str, Any]:
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    config.pop("tie_word_embeddings", None)
    return config if says is None else config | {"tie_word_embeddings": says}


def test_names_of_raw_weights_are_tensors_of_their_own(tmp_path: Path) -> None:
    weight = torch.rand(3, 3)
    state = {"jim.weight": weight, "jimbo.weight": weight, "empty": weight[:0], "none": weight[:0]}

    assert pickled(tmp_path, state, {}) == state.keys()


@pytest.mark.parametrize(
    ("says", "model", "tied"),
    [
        (None, LlamaForCausalLM(LLAMA), set()),
        (False, LlamaForCausalLM(LLAMA), set()),
        (True, LlamaForCausalLM(TIED_LLAMA), {HEAD}),
        (None, GPT2LMHeadModel(GPT2), {HEAD}),
        (
            None,
            T5ForConditionalGeneration(T5),
            {HEAD, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PreTrainedModel) else None,
)
def test_the_class_says_which_names_are_tied(
    says: bool | None, model: PreTrainedModel, tied: set[str], tmp_path: Path
) -> None:
    state = dict(model.state_dict())
    if HEAD in state and TABLE in state:
        state[HEAD] = state[TABLE]

    assert pickled(tmp_path, state, config_of(model, says=says)) == state.keys() - tied


@pytest.mark.parametrize(("says", "tied"), [(True, {HEAD}), (None, set()), (False, set())])
def test_without_the_class_the_config_alone_does(
    says: bool | None, tied: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ties, "load", lambda *_: None)
    state = dict(LlamaForCausalLM(LLAMA).state_dict())
    state[HEAD] = state[TABLE]
    state["other.weight"] = state["model.norm.weight"]

    found = pickled(tmp_path, state, config_of(LlamaForCausalLM(LLAMA), says=says))

    assert found == state.keys() - tied

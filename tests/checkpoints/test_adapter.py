"""Base and adapter as one checkpoint: the same numbers as PEFT's own merge, for every kind that PEFT writes."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from merging.checkpoints import Checkpoint, open_adapter, open_checkpoint

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(tied: bool = True, **more: Any) -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied, **more))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def mixtral() -> nn.Module:
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3))


def gpt_oss() -> nn.Module:
    # A square matrix for each expert: its shape does not say which way it stands.
    sizes = SIZES | {"intermediate_size": 32}
    config = GptOssConfig(**sizes, num_local_experts=3, head_dim=8, layer_types=["full_attention"] * 2)
    return GptOssForCausalLM(config)


def saved(make: Callable[[], nn.Module], folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(folder)
    return model


def trained(model: nn.Module, config: Any, folder: Path, seed: int = 1) -> PeftModel:
    """An adapter whose every number is random, saved as PEFT saves it; returns the model under it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn_like(parameter) * 0.1
                    parameter.copy_(parameter + noise if "magnitude" in name else noise)
        adapted.save_pretrained(folder)
    return adapted


def tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, read whole."""
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    found = {}
    for name, header in checkpoint.tensors.items():
        data = bytearray(header.nbytes)
        checkpoint.read_into(name, 0, memoryview(data))
        found[name] = torch.frombuffer(data, dtype=kinds[header.dtype]).view(header.shape)
    return found


def opened(base: Path, *adapters: Path, scale: float = 1.0) -> Checkpoint:
    checkpoint: Checkpoint = open_checkpoint(str(base))
    for adapter in adapters:
        checkpoint = open_adapter(checkpoint, str(adapter), scale=scale)
    return checkpoint


def loaded(checkpoint: Checkpoint, folder: Path) -> nn.Module:
    """The checkpoint as transformers loads it when it stands in a folder."""
    folder.mkdir()
    save_file(tensors(checkpoint), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model


@torch.no_grad()
def answers(model: nn.Module, tokens: int = 96) -> torch.Tensor:
    return model.eval()(torch.arange(tokens)[None, ::3]).logits


ATTENTION = ["q_proj", "v_proj"]
KINDS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "plain": (llama, LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION)),
    "rank and alpha patterns": (
        llama,
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=[*ATTENTION, "down_proj", "o_proj"],
            rank_pattern={"q_proj": 2, r"layers\.1\..*down_proj": 6},
            alpha_pattern={"^model.layers.0.self_attn.q_proj": 1, "o_proj": 3},
        ),
    ),
    "rsLoRA": (llama, LoraConfig(r=4, target_modules="all-linear", use_rslora=True)),
    "DoRA": (llama, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=True)),
    "Conv1D": (
        gpt2,
        LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True),
    ),
    "square Conv1D": (gpt2, LoraConfig(r=4, target_modules=["attn.c_proj"], fan_in_fan_out=True)),
    "DoRA of Conv1D": (
        gpt2,
        LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True),
    ),
    "modules to save": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["lm_head", "embed_tokens", "norm"]),
    ),
    "embedding": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    ),
    "DoRA of an embedding": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=["embed_tokens"], use_dora=True),
    ),
    "token rows": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices={"embed_tokens": [90, 3, 5]}),
    ),
    "token rows of a tied model": (
        llama,
        LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices=[90, 3, 5]),
    ),
    "only token rows": (llama, TrainableTokensConfig(token_indices=[7, 2])),
    "lora_bias": (
        lambda: llama(attention_bias=True),
        LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION, lora_bias=True),
    ),
    "biases": (
        lambda: llama(attention_bias=True),
        LoraConfig(r=4, target_modules=ATTENTION, bias="lora_only"),
    ),
    "some layers": (llama, LoraConfig(r=4, target_modules=ATTENTION, layers_to_transform=[1])),
    "packed experts, stored one by one": (
        mixtral,
        LoraConfig(
            r=2, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
        ),
    ),
    "packed experts, transposed": (
        gpt_oss,
        LoraConfig(
            r=2, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
        ),
    ),
    "one packed parameter": (
        gpt_oss,
        LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.down_proj"]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    make, config = KINDS[kind]
    model = saved(make, tmp_path / "base")
    before = copy.deepcopy(model)
    adapted = trained(model, copy.deepcopy(config), tmp_path / "adapter")
    expected = adapted.merge_and_unload()

    ours = loaded(opened(tmp_path / "base", tmp_path / "adapter"), tmp_path / "ours").state_dict()

    theirs = expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-7, rtol=2e-6, msg=f"{kind}: {name}")
    moved = [name for name, tensor in before.state_dict().items() if not torch.equal(ours[name], tensor)]
    assert moved, "the adapter changed nothing"

"""Tiny models of several families, and their GGUF files by llama.cpp's own converter and quantizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from merging import make_plan, run_plan
from merging.gguf.recipe import recipe_of
from merging.gguf.types import FILE_TYPES
from tests import llama_cpp
from tests.tiny import save_sentencepiece, save_tokenizer

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 64},
    "gemma": {"model_type": "gemma", "head_dim": 64},
    "gemma2": {"model_type": "gemma2", "head_dim": 64, "sliding_window": 64, "query_pre_attn_scalar": 64},
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 64,
        "sliding_window": 64,
        "query_pre_attn_scalar": 64,
    },
    "granite": {"model_type": "granite", "attention_multiplier": 0.5, "logits_scaling": 3.0},
    "smollm3": {"model_type": "smollm3"},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "mixtral-of-8": {"model_type": "mixtral", "num_local_experts": 8},
}
# Families whose tokenizers the converter expects to be of bytes.
OF_BYTES: dict[str, dict[str, Any]] = {
    "olmo2": {"model_type": "olmo2"},
    "qwen2-moe": {
        "model_type": "qwen2_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
    },
    "qwen3-moe": {
        "model_type": "qwen3_moe",
        "head_dim": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
}
MERGES = (("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "a"), ("i", "n"))


def tiny(
    path: Path,
    family: str,
    width: int,
    layers: int = 9,
    dtype: torch.dtype = torch.bfloat16,
    vocab_size: int = 296,
) -> Path:
    """Save a random model of a family with its kind of tokenizer; returns the path."""
    torch.manual_seed(width)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    if family in OF_BYTES:
        save_tokenizer(path, [("t", "h"), ("th", "e"), ("1", "2")], ["<think>"], template)
    else:
        kind = "GemmaTokenizer" if family.startswith("gemma") else "LlamaTokenizer"
        save_sentencepiece(path, MERGES, tokenizer_class=kind, add_bos_token=True, chat_template=template)
    settings = dict({**FAMILIES, **OF_BYTES}[family])
    config = CONFIG_MAPPING[settings.pop("model_type")](
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=256 if width % 256 else 320,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=1 if width == 256 else 3,
        max_position_embeddings=512,
        bos_token_id=0 if family in OF_BYTES else 1,
        eos_token_id=1 if family in OF_BYTES else 2,
        pad_token_id=None,
        **settings,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(path)
    return path


def ours(model: Path, to: Path, *types: str) -> Path:
    """The folder with our GGUF files of a model."""
    run_plan(make_plan(recipe_of(str(model))), str(to), gguf=types, only_gguf=True)
    return to


def theirs(model: Path, to: Path, name: str, *types: str) -> dict[str, Path]:
    """GGUF files of a model by llama.cpp: the converter's file, and what the quantizer makes of it; by type."""
    import conversion

    dtype = json.loads((model / "config.json").read_text())["dtype"]
    wide = {"float32": "F32", "float16": "F16"}.get(dtype, "BF16")
    kinds = {
        "F32": gguf.LlamaFileType.ALL_F32,
        "F16": gguf.LlamaFileType.MOSTLY_F16,
        "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    }
    hparams = conversion.ModelBase.load_hparams(model, False)
    known = conversion.get_model_class(conversion.get_model_architecture(hparams, conversion.ModelType.TEXT))
    to.mkdir()
    files = {wide: to / f"{wide}.gguf"}
    with torch.inference_mode():
        known(model, kinds[wide], files[wide], model_name=name).write()
    for kind in types:
        if kind != wide:
            files[kind] = to / f"{kind}.gguf"
            llama_cpp.quantize(files[wide], files[kind], FILE_TYPES[kind].number)
    return files


def tensors(file: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes of the tensors of a file, by name."""
    return {
        # llama.cpp's quantizer leaves out last axes of one entry, which its converter writes.
        t.name: (t.tensor_type.name, without_last_ones(t.shape.tolist()), t.data.tobytes())
        for t in gguf.GGUFReader(file).tensors
    }


def without_last_ones(shape: list[int]) -> list[int]:
    """A shape, whose first axis is the last one of the numbers, without axes of one entry at its end."""
    return without_last_ones(shape[:-1]) if len(shape) > 1 and shape[-1] == 1 else shape


def keys(file: Path) -> dict[str, Any]:
    """The keys of a file with their values."""
    fields = gguf.GGUFReader(file).fields
    return {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}

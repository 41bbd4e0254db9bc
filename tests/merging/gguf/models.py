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
from tests.tiny import save_sentencepiece

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 64},
    "gemma": {"model_type": "gemma", "head_dim": 64},
    "gemma2": {"model_type": "gemma2", "head_dim": 64, "sliding_window": 64},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "mixtral-of-8": {"model_type": "mixtral", "num_local_experts": 8},
}
MERGES = (("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "a"), ("i", "n"))


def tiny(path: Path, family: str, width: int, layers: int = 9, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Save a random model of a family with a SentencePiece tokenizer; returns the path."""
    torch.manual_seed(width)
    save_sentencepiece(
        path, MERGES, add_bos_token=True, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    settings = dict(FAMILIES[family])
    config = CONFIG_MAPPING[settings.pop("model_type")](
        vocab_size=296,
        hidden_size=width,
        intermediate_size=256 if width % 256 else 320,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=1 if width == 256 else 3,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
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
        t.name: (t.tensor_type.name, [int(size) for size in t.shape], t.data.tobytes())
        for t in gguf.GGUFReader(file).tensors
    }


def keys(file: Path) -> dict[str, Any]:
    """The keys of a file with their values."""
    fields = gguf.GGUFReader(file).fields
    return {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}

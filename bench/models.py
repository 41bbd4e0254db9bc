"""Llama-shaped models of random weights: a base and three fine-tunes, built once into a cache folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

NAMES = ("base", "a", "b", "c")
SHARD_BYTES = 500_000_000


@dataclass(frozen=True)
class Size:
    """Dimensions of a Llama, in the words of its config."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the order of the model."""
        head = self.hidden_size // self.num_attention_heads
        keys = head * self.num_key_value_heads
        yield "model.embed_tokens.weight", (self.vocab_size, self.hidden_size)
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", (self.hidden_size,)
            for name, rows in (("q", self.hidden_size), ("k", keys), ("v", keys), ("o", self.hidden_size)):
                yield f"{prefix}self_attn.{name}_proj.weight", (rows, self.hidden_size)
            yield prefix + "post_attention_layernorm.weight", (self.hidden_size,)
            for name in ("gate", "up"):
                yield f"{prefix}mlp.{name}_proj.weight", (self.intermediate_size, self.hidden_size)
            yield prefix + "mlp.down_proj.weight", (self.hidden_size, self.intermediate_size)
        yield "model.norm.weight", (self.hidden_size,)
        yield "lm_head.weight", (self.vocab_size, self.hidden_size)


SIZES = {
    "tiny": Size(64, 176, 4, 4, 2, 512),  # to try a script
    "small": Size(1024, 2816, 12, 16, 4, 32_000),  # 0.2 B parameters
    "1b": Size(2048, 5632, 22, 32, 4, 32_000),  # 1.1 B, the shape of TinyLlama
    "3b": Size(3072, 8192, 28, 24, 8, 32_000),  # 3.0 B
}


def built(size: str) -> Path:
    """The folder that holds `base`, `a`, `b` and `c` of a size; built if it is not there."""
    cache = Path(os.environ.get("ALLOY_CACHE") or Path.home() / ".cache" / "alloy").expanduser()
    folder = cache / "bench" / size
    for number, name in enumerate(NAMES):
        if not (folder / name).exists():
            print(f"building {size}/{name} ...", flush=True)
            partial = folder / f".{name}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _build(SIZES[size], number, partial)
            partial.rename(folder / name)
    return folder


def _build(size: Size, number: int, folder: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        **size.__dict__,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for index, (name, shape) in enumerate(size.tensors()):
        # The same base for all, from the tensor's own seed; a fine-tune is some bfloat16 steps away.
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(index)).mul_(0.02)
        if number:
            own = torch.Generator().manual_seed(1000 * number + index)
            weight.add_(torch.randn(shape, generator=own), alpha=0.001)
        if filled and filled + weight.numel() * 2 > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = weight.to(torch.bfloat16)
        filled += weight.numel() * 2
    weight_map = {}
    for place, shard in enumerate(shards, 1):
        filename = f"model-{place:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / filename, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, filename)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )

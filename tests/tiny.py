"""Tiny random models, made on the spot: a base and fine-tunes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def tiny_llama(
    path: Path,
    seed: int,
    base: Path | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    step: float = 0.02,
    shard: str = "5GB",
    **config: Any,
) -> Path:
    """Save a random Llama, or a fine-tune (random steps away) of the one at `base`; returns the path."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        **config,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings))
    if base is not None:
        weights = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name] + step * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(path, max_shard_size=shard)
    return path


def save_tokenizer(
    path: Path, merges: Sequence[tuple[str, str]] = (), added: Sequence[str] = (), template: str = ""
) -> Path:
    """Save a byte-level BPE tokenizer of two special tokens, 256 bytes, merges and added tokens; returns the path."""
    words = [
        "<s>",
        "</s>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(left + right for left, right in merges),
    ]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.add_tokens(list(added))
    if template:
        fast.chat_template = template
    fast.save_pretrained(path)
    return path

"""A tiny random model that can be spoken to: its tokens are bytes."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_llama


def tiny_speaker(path: Path, seed: int = 0, base: Path | None = None) -> Path:
    """Save a random Llama, or a fine-tune of the one at `base`, with a tokenizer; returns the path."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:254]
    words = {"<s>": 0, "</s>": 1, **{letter: number for number, letter in enumerate(alphabet, 2)}}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tiny_llama(path, seed, base)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(path)
    return path

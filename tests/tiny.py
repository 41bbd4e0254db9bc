"""Tiny random models, made on the spot: a base and fine-tunes of it."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentencepiece import sentencepiece_model_pb2
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


def save_sentencepiece(
    path: Path, merges: Sequence[tuple[str, str]] = (), user_defined: Sequence[str] = (), **settings: Any
) -> Path:
    """Save a tokenizer of a SentencePiece model (BPE with bytes, as Llama 2's) and its settings; returns the path."""
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    kinds = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((piece, 4) for piece in user_defined)]
    kinds += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    words = [left + right for left, right in merges]
    kinds += [(piece, 1) for piece in (*words, "▁", *string.ascii_lowercase)]
    for number, (piece, kind) in enumerate(kinds):
        model.pieces.add(piece=piece, score=-number, type=kind)
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.model").write_bytes(model.SerializeToString())
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    named = {"tokenizer_class": "LlamaTokenizer", **named, **settings}
    (path / "tokenizer_config.json").write_text(json.dumps(named))
    return path


def without_tokenizer_json(path: Path) -> Path:
    """Take the byte-level tokenizer in a folder apart into vocab.json, merges.txt and settings; returns the path."""
    document = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").unlink()
    (path / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in document["model"]["merges"]), ""]
    (path / "merges.txt").write_text("\n".join(lines))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<s>"}
    settings["added_tokens_decoder"] = {str(token.pop("id")): token for token in document["added_tokens"]}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path

"""A GGUF file or a base and its adapter, written out as a model folder that stands on its own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

_CONTROL = 3  # tokenizer.ggml.token_type of a special token

_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a Llama from a GGUF file as bfloat16 safetensors with config, tokenizer and chat template.

    transformers can do this too, but parses the file three times (37 s against 11 s) and leaves the
    digits out of the pre-tokenizer.

    Args:
        gguf: the quantized file
        folder: an existing empty folder, filled here
    """
    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        # The file holds float32: 1e-05 reads back as 9.999999747378752e-06.
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings="output.weight" not in {tensor.name for tensor in reader.tensors},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        *block, kind, _ = tensor.name.split(".")
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if kind in heads:
            # GGUF keeps the two halves of a rotary pair side by side, transformers half a head apart.
            pairs = values.reshape(heads[kind], -1, 2, values.shape[1])
            values = pairs.transpose(1, 2).reshape(values.shape)
        prefix = f"model.layers.{block[1]}." if block else ""
        weights[f"{prefix}{_TENSORS[kind]}.weight"] = values.to(torch.bfloat16).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(fields).save_pretrained(folder)


def _tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokens = fields["tokenizer.ggml.tokens"]
    bpe = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]],
        )
    )
    # What GGUF calls the pre-tokenizer "smollm": every digit alone, then GPT-2's byte-level words.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    bpe.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = fields["tokenizer.chat_template"]
    return tokenizer


def load_float32(folder: Path) -> LlamaForCausalLM:
    """Load a model folder in float32, on the CPU."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def grow_vocabulary(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, added_tokens: list[str]
) -> dict[str, int]:
    """Add tokens to a tokenizer and their rows to its model.

    A new row starts as the mean of the rows that spelled the same word before.

    Args:
        model: grown in place
        tokenizer: grown in place
        added_tokens: the new tokens, in the order of their ids

    Returns:
        the id of each added token
    """
    spelled = [tokenizer.encode(token, add_special_tokens=False) for token in added_tokens]
    first = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in added_tokens])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = model.get_input_embeddings().weight.data
    for index, pieces in enumerate(spelled, start=first):
        rows[index] = rows[pieces].mean(dim=0)
    return {token: index for index, token in enumerate(added_tokens, start=first)}


def merge_adapter(base: Path, adapter: Path, folder: Path) -> None:
    """Write base plus adapter as a bfloat16 model that needs neither of them.

    Args:
        base: the folder of the base model
        adapter: the folder of a PEFT adapter; `added_tokens.json` there holds what its vocabulary adds
        folder: an existing empty folder, filled here
    """
    model, tokenizer = load_float32(base), AutoTokenizer.from_pretrained(base)
    added = adapter / "added_tokens.json"
    if added.exists():
        grow_vocabulary(model, tokenizer, list(json.loads(added.read_text(encoding="utf-8"))))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # PEFT asks transformers for an attribute by its old name
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(folder)
    for key in ("is_local", "local_files_only"):  # how it was loaded is nothing to save
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(folder)

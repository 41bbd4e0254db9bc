"""Tiny random models of many architectures, by transformers' own configs, and one that no library knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file

VOCABULARY = 96
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
BERT = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]


def llava() -> hf.PreTrainedModel:
    vision, text = hf.CLIPVisionConfig(**VISION), hf.LlamaConfig(**TEXT)
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=VOCABULARY - 1)
    )


def qwen2_vl() -> hf.PreTrainedModel:
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 4}
    text = {**TEXT, "rope_parameters": MROPE}
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=VOCABULARY - 1)
    )


def gemma3_vl() -> hf.PreTrainedModel:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sight = hf.SiglipVisionConfig(**vision, image_size=16, patch_size=8)
    text = hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8, layer_types=LAYERS)
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4)
    )


FAMILIES: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT, tie_word_embeddings=True)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**TEXT, head_dim=8)),
    "qwen3-moe": lambda: hf.Qwen3MoeForCausalLM(
        hf.Qwen3MoeConfig(**TEXT, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT, num_local_experts=4)),
    "gpt-oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(**TEXT, head_dim=8, num_local_experts=4, num_experts_per_tok=2, layer_types=LAYERS)
    ),
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**TEXT, head_dim=8, sliding_window=8, layer_types=LAYERS)
    ),
    "gemma3-vl": gemma3_vl,
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8, layer_types=LAYERS)
    ),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**TEXT)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2)),
    "gpt-neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**BERT, num_attention_heads=4)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT, num_attention_heads=4)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, num_layers=3)),
    "whisper": lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER)),
    "llava": llava,
    "qwen2-vl": qwen2_vl,
    "mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, state_size=8)
    ),
    "lfm2": lambda: hf.Lfm2ForCausalLM(hf.Lfm2Config(**TEXT, layer_types=["conv", "full_attention", "conv"])),
}


def save_family(family: str, path: Path, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    """Save a random model of a family; returns the path. The seed alone decides the weights."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():  # norms and biases, which begin at one and zero, must differ too
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(path)
    return path


def save_unknown(path: Path, seed: int, layers: int = 3) -> Path:
    """Save a model of an architecture that no library knows: numbered blocks, a table, a config with its own words."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {"entry.table": random(11, 6), "exit.rows": random(6, 11), "exit.steps": torch.arange(5)}
    for layer in range(layers):
        tensors[f"tower.{layer}.mix"] = random(6, 6)
        tensors[f"tower.{layer}.gain"] = random(6).to(torch.bfloat16)
        tensors[f"tower.{layer}.cube"] = random(2, 3, 4)
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    config: dict[str, Any] = {
        "model_type": "alembic",
        "n_layers": layers,
        "gates": list(range(10, 10 + layers)),
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def outputs(model: hf.PreTrainedModel) -> torch.Tensor:
    """The logits of a fixed input, text and what else the model needs."""
    tokens = torch.arange(3, 13)[None]
    inputs: dict[str, Any] = {"input_ids": tokens}
    if model.config.model_type == "whisper":
        generator = torch.Generator().manual_seed(0)
        inputs = {"input_features": torch.randn(1, 8, 32, generator=generator), "decoder_input_ids": tokens}
    elif model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    with torch.inference_mode():
        return model.eval()(**inputs).logits

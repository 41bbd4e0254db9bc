"""What GGUF calls the settings and the tensors of an architecture. To add one, add it to `ARCHITECTURES`.

A setting that is not named here is refused: the config would be silent about something that the weights depend on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Tensors outside the stack of layers.
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
# Tensors without weights: they repeat the frequencies of the rotary embedding.
FREQUENCIES = ("rope_freqs.weight",)

_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_DENSE = {**_ATTENTION, **_MLP, **_NORMS}
# Before and after both parts of a layer.
_FOUR_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# The experts of a layer are one tensor, (experts, rows, width).
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}

_SETTINGS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_OF_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}


@dataclass(frozen=True)
class GgufArchitecture:
    """One architecture.

    Args:
        name: GGUF's; several classes of transformers may share it
        model_type, model_class: transformers'
        layer: what transformers calls the modules of a layer, by GGUF's name; `{}` is the number of an expert
        settings: the config's key, by GGUF's without the architecture's name
        constant: settings that no file states, since all models of the class have them
        interleaves_heads: whether the rows of a query's and key's head are in pairs, as llama.cpp rotates them
        added_to_norms: what llama.cpp's converter adds to the weights of norms
        bias_settings: settings that say whether modules have biases
        biased: modules that have biases without a setting that says so
    """

    name: str
    model_type: str
    model_class: str
    layer: Mapping[str, str] = field(default_factory=lambda: _DENSE)
    settings: Mapping[str, str] = field(default_factory=lambda: _SETTINGS)
    constant: Mapping[str, Any] = field(default_factory=dict)
    interleaves_heads: bool = False
    added_to_norms: int = 0
    bias_settings: tuple[str, ...] = ("attention_bias",)
    biased: tuple[str, ...] = ()


_BOTH = ("attention_bias", "mlp_bias")
_QUERIES = ("attn_q", "attn_k", "attn_v")
_GELU = {"hidden_activation": "gelu_pytorch_tanh"}
_SOFTCAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.sliding_window": "sliding_window",
}

ARCHITECTURES = (
    GgufArchitecture("llama", "llama", "LlamaForCausalLM", interleaves_heads=True, bias_settings=_BOTH),
    GgufArchitecture(
        "llama", "mistral", "MistralForCausalLM",
        constant={"sliding_window": None}, interleaves_heads=True, bias_settings=(),
    ),
    GgufArchitecture(
        "llama", "mixtral", "MixtralForCausalLM",
        layer={**_ATTENTION, **_NORMS, **_MIXTRAL},
        settings={**_SETTINGS, **_OF_EXPERTS, "expert_count": "num_local_experts"},
        constant={"sliding_window": None}, interleaves_heads=True, bias_settings=(),
    ),
    GgufArchitecture("qwen2", "qwen2", "Qwen2ForCausalLM", bias_settings=(), biased=_QUERIES),
    GgufArchitecture("qwen3", "qwen3", "Qwen3ForCausalLM", layer={**_DENSE, **_HEAD_NORMS}),
    GgufArchitecture(
        "qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM",
        layer={**_ATTENTION, **_NORMS, **_EXPERTS, **_SHARED_EXPERT},
        settings={**_SETTINGS, **_OF_EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        constant={"norm_topk_prob": False, "decoder_sparse_step": 1}, bias_settings=(), biased=_QUERIES,
    ),
    GgufArchitecture(
        "qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM",
        layer={**_ATTENTION, **_HEAD_NORMS, **_NORMS, **_EXPERTS},
        settings={**_SETTINGS, **_OF_EXPERTS},
        constant={"norm_topk_prob": True, "decoder_sparse_step": 1},
    ),
    GgufArchitecture(
        "gemma", "gemma", "GemmaForCausalLM",
        constant={"hidden_act": "gelu_pytorch_tanh"}, added_to_norms=1,
    ),
    GgufArchitecture(
        "gemma2", "gemma2", "Gemma2ForCausalLM",
        layer={**_ATTENTION, **_MLP, **_FOUR_NORMS}, settings={**_SETTINGS, **_SOFTCAPS},
        constant=_GELU, added_to_norms=1,
    ),
    GgufArchitecture(
        "gemma3", "gemma3_text", "Gemma3ForCausalLM",
        layer={**_ATTENTION, **_HEAD_NORMS, **_MLP, **_FOUR_NORMS},
        settings={**_SETTINGS, **_SOFTCAPS, "rope.freq_base_swa": "rope_local_base_freq"},
        constant={**_GELU, "sliding_window_pattern": 6, "rope_local_base_freq": 10000.0}, added_to_norms=1,
    ),
    GgufArchitecture(
        "granite", "granite", "GraniteForCausalLM",
        settings={
            **_SETTINGS, "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
        },
        interleaves_heads=True, bias_settings=_BOTH,
    ),
    GgufArchitecture(
        "olmo2", "olmo2", "Olmo2ForCausalLM",
        layer={
            **_ATTENTION, **_HEAD_NORMS, **_MLP,
            "post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
        },
    ),
    GgufArchitecture(
        "smollm3", "smollm3", "SmolLM3ForCausalLM",
        constant={"no_rope_layer_interval": 4}, interleaves_heads=True, bias_settings=_BOTH,
    ),
)  # fmt: skip


def architecture_of(model_type: str) -> GgufArchitecture | None:
    """The architecture that transformers gives this name."""
    return next((each for each in ARCHITECTURES if each.model_type == model_type), None)

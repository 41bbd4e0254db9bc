"""The architectures that hold experts: which dense models they are made from, and what tensors and configs call things.

Each expert is a tensor by itself, under the names of the architecture's first release: all releases of transformers,
vLLM and llama.cpp read these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MATRICES = ("gate_proj", "up_proj", "down_proj")
_EVERY_LAYER = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
)
_BIASES = tuple(f"self_attn.{name}_proj.bias" for name in "qkv")
# What a config means that leaves a key out, where architectures differ.
_MISSING: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": {"num_key_value_heads": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
    "qwen3": {
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "head_dim": 128,
    },
}
_THETA = 10000.0
# Keys of dense models that mean nothing, or something else, in a mixture.
_DROPPED = ("auto_map", "mlp_bias", "attention_bias", "pretraining_tp", "layer_types")


@dataclass(frozen=True)
class Architecture:
    """One that holds experts.

    Args:
        name: as mergekit calls it
        model_class, model_type: as its config says
        bases: model types of the dense models that it is made from
        layer: the tensors of each layer besides experts, by the end of their names
        filled: those of them that are zeros where the base has none
        router, expert, shared_gate, shared: the ends of these names, with the expert's number and matrix
        matrices: what it calls MATRICES
        count: the key of its config for the number of experts
        fixed: what its config says always
    """

    name: str
    model_class: str
    model_type: str
    bases: tuple[str, ...]
    layer: tuple[str, ...]
    router: str
    expert: str
    count: str
    matrices: tuple[str, ...] = MATRICES
    filled: tuple[str, ...] = ()
    shared: str = ""
    shared_gate: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_shared(self) -> bool:
        """Whether it has one shared expert; the others have none."""
        return bool(self.shared)

    @property
    def takes_window(self) -> bool:
        """Whether its attention may be limited to a window in every layer."""
        return self.model_type == "mixtral"

    def expert_name(self, number: int, matrix: str) -> str:
        """The end of the name of an expert's matrix, one of MATRICES."""
        return self.expert.format(number=number, matrix=self.matrices[MATRICES.index(matrix)])

    def config(
        self,
        base: Mapping[str, Any],
        *,
        experts: int,
        per_token: int,
        width: int,
        shared_width: int | None,
        is_tied: bool,
    ) -> dict[str, Any]:
        """The config of a mixture.

        Args:
            base: the dense model's
            experts: how many
            per_token: how many experts each token passes through
            width: of an expert
            shared_width: of the shared expert; None without one
            is_tied: whether the head reads the embedding
        """
        config = {**_MISSING[str(base["model_type"])], **base}
        if not {"rope_theta", "rope_parameters"} & config.keys():
            config["rope_theta"] = _THETA
        config = {key: value for key, value in config.items() if key not in _DROPPED}
        if config.get("head_dim") is None:  # Qwen's classes take it for a number where it is named
            config.pop("head_dim", None)
        config |= {"architectures": [self.model_class], "model_type": self.model_type}
        config.setdefault("tie_word_embeddings", is_tied)
        config |= {**self.fixed, self.count: experts, "num_experts_per_tok": per_token}
        if self.takes_window:
            return config | {"intermediate_size": width, "sliding_window": window(base)}
        config |= {"moe_intermediate_size": width, "use_sliding_window": False}
        if shared_width is not None:
            config["shared_expert_intermediate_size"] = shared_width
        return config


def window(config: Mapping[str, Any]) -> int | None:
    """How many tokens back the attention of a dense model reaches in some layer; None for all."""
    kind = config["model_type"]
    if kind == "llama" or (kind != "mistral" and not config.get("use_sliding_window")):
        return None
    reach: int | None = config.get("sliding_window", 4096)
    return reach


_QWEN = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
# The first that suits a base is taken.
ARCHITECTURES = (
    Architecture(
        "Mixtral",
        "MixtralForCausalLM",
        "mixtral",
        ("llama", "mistral"),
        _EVERY_LAYER,
        "block_sparse_moe.gate.weight",
        "block_sparse_moe.experts.{number}.{matrix}.weight",
        "num_local_experts",
        ("w1", "w3", "w2"),
        fixed={"output_router_logits": False, "router_aux_loss_coef": 0.001},
    ),
    Architecture(
        "Qwen MoE",
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        ("llama", "mistral", "qwen2"),
        (*_EVERY_LAYER, *_BIASES),
        "mlp.gate.weight",
        "mlp.experts.{number}.{matrix}.weight",
        "num_experts",
        filled=_BIASES,
        shared="mlp.shared_expert.{matrix}.weight",
        shared_gate="mlp.shared_expert_gate.weight",
        fixed={**_QWEN, "qkv_bias": True},
    ),
    Architecture(
        "Qwen3 MoE",
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        ("qwen3",),
        (*_EVERY_LAYER, "self_attn.q_norm.weight", "self_attn.k_norm.weight"),
        "mlp.gate.weight",
        "mlp.experts.{number}.{matrix}.weight",
        "num_experts",
        fixed=_QWEN,
    ),
)
# mergekit makes it; it needs code of its own, which transformers 5 does not run any more.
DEEPSEEK = "DeepSeek MoE"
DENSE_TYPES = tuple(_MISSING)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def named(wanted: str) -> list[Architecture]:
    """The architectures whose name, class or model type begins like this."""
    found = []
    for architecture in ARCHITECTURES:
        names = (architecture.name, architecture.model_class, architecture.model_type)
        if any(_plain(name).startswith(_plain(wanted)) for name in names):
            found.append(architecture)
    return found


def is_deepseek(wanted: str) -> bool:
    return bool(_plain(wanted)) and _plain(DEEPSEEK).startswith(_plain(wanted))

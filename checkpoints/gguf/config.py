"""The config of a model, from the metadata of its GGUF file."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from checkpoints.formats.header import TensorHeader
from checkpoints.gguf.architectures import ARCHITECTURES, GgufArchitecture
from checkpoints.gguf.header import GgufHeader, Value

REQUIRED = (
    "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)  # fmt: skip
# Settings that are whole numbers in every config that is written; some architectures have one for each layer.
WHOLE = (
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
)
# Modules of a layer that may have biases, by the setting that says so.
MODULES = {
    "attention_bias": ("attn_q", "attn_k", "attn_v", "attn_output"),
    "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down"),
}
# Keys of an architecture that say nothing which its config needs.
WITHOUT_MEANING = {"vocab_size", "tensor_data_layout", "attention.causal"}
# What a file says of itself, by `general.file_type`: the type of its matrices. All others are quantized.
DTYPES = {0: "float32", 1: "float16", 32: "bfloat16"}
# llama.cpp's, where a file states none.
ROPE_THETA = 10000.0
LARGEST_FLOAT = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]  # of float32
# Llama 3's rotary embedding: how much lower and higher frequencies are scaled, and the length of the first training.
LOW_FREQUENCIES, HIGH_FREQUENCIES, FIRST_LENGTH = 1.0, 4.0, 8192
# Gemma 2 and 3 of 27 billion parameters, by their layers: they scale queries by their width over their heads.
SCALED_BY_WIDTH = {"gemma2": 46, "gemma3_text": 62}


class ConfigError(Exception):
    """The metadata describe no config; the text says why."""


def find_architecture(header: GgufHeader) -> GgufArchitecture:
    """The architecture of a model.

    Raises:
        ConfigError: it is not known.
    """
    name = header.metadata.get("general.architecture")
    found = {each.model_type: each for each in ARCHITECTURES if each.name == name}
    if not found:
        known = ", ".join(dict.fromkeys(each.name for each in ARCHITECTURES))
        raise ConfigError(f"architecture {_shown(name)}, and those that are read are {known}")
    if name == "llama" and header.metadata.get("llama.expert_count"):
        return found["mixtral"]
    if name == "llama" and any("mistral" in called for called in _names(header.metadata)):
        return found["mistral"]
    return next(iter(found.values()))


def _names(metadata: Mapping[str, Value]) -> list[str]:
    keys = ("general.name", "general.basename", "general.base_model.0.name", "general.base_model.0.repo_url")
    return [str(metadata.get(key, "")).lower() for key in keys]


def config_of(header: GgufHeader, factors: list[float] | None) -> dict[str, Any]:
    """The config of a model.

    Args:
        factors: by which the model's frequencies are divided, if the file has them

    Raises:
        ConfigError: a setting is missing or not known, or the file contradicts itself.
    """
    architecture = find_architecture(header)
    given = _settings(header.metadata, architecture.name)
    missing = [key for key in REQUIRED if key not in given]
    _expect(not missing, f"{architecture.name}.{missing[:1]} is missing")
    broken = [key for key, value in given.items() if isinstance(value, float) and not math.isfinite(value)]
    _expect(not broken, f"{architecture.name}.{_shown(broken[:1])} is no number")
    known = {*architecture.settings, *WITHOUT_MEANING, "attention.value_length", "rope.dimension_count"}
    unknown = [key for key in given if key not in known and not key.startswith("rope.scaling.")]
    _expect(not unknown, f"Alloy does not know what {architecture.name}.{_shown(unknown[:1])} means")
    config: dict[str, Any] = {
        "architectures": [architecture.model_class],
        "model_type": architecture.model_type,
        **architecture.constant,
        **{architecture.settings[key]: value for key, value in given.items() if key in architecture.settings},
    }
    heads = config["num_attention_heads"]
    config.setdefault("num_key_value_heads", heads)
    for key in WHOLE:
        _expect(type(config[key]) is int and config[key] > 0, f"{key} is {_shown(config[key])}")
    for key in sorted(architecture.settings.keys() & given.keys()):
        _expect(type(given[key]) in (int, float), f"{key} is {_shown(given[key])}")
    size = given.get(
        "attention.key_length", given.get("rope.dimension_count", config["hidden_size"] // heads)
    )
    _expect(type(size) is int and 0 < size <= config["hidden_size"] * heads, f"heads of {_shown(size)} rows")
    if size != config["hidden_size"] // heads:
        config["head_dim"] = size
    config.setdefault("rope_theta", ROPE_THETA)
    is_base = type(config["rope_theta"]) in (int, float) and 0 < config["rope_theta"] < math.inf
    _expect(is_base, f"rope.freq_base is {_shown(config['rope_theta'])}")
    for key in ("attention.value_length", "rope.dimension_count"):
        _expect(given.get(key, size) == size, f"{key} is not the size of a head")
    queries = header.tensors.get("blk.0.attn_q.weight")
    _expect(
        queries is None or queries.shape[0] == heads * size, f"{heads} heads of {_shown(size)} are others"
    )
    config |= _of_tensors(header.tensors, architecture, given.get("vocab_size"))
    config["rope_scaling"] = _scaling(given, config["rope_theta"], size, factors)
    config |= _of_gemma(config, size)
    for role in ("bos", "eos", "pad"):
        number = header.metadata.get(f"tokenizer.ggml.{'padding' if role == 'pad' else role}_token_id")
        config[f"{role}_token_id"] = number if type(number) is int else None
    file_type = header.metadata.get("general.file_type")
    config["dtype"] = DTYPES.get(file_type if type(file_type) is int else -1, "bfloat16")
    return config


def _settings(metadata: Mapping[str, Value], name: str) -> dict[str, Any]:
    """The settings of an architecture."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): _shortest(value) if isinstance(value, float) else value
        for key, value in metadata.items()
        if key.startswith(prefix)
    }


def _shortest(number: float) -> float:
    """The number with the fewest digits that is the same in float32: 1e-05 for 9.999999747378752e-06."""
    if not abs(number) <= LARGEST_FLOAT:
        return number
    same = struct.pack("<f", number)
    shortest = (float(f"{number:.{digits}g}") for digits in range(1, 10))
    return next((found for found in shortest if struct.pack("<f", found) == same), number)


def _of_tensors(
    tensors: Mapping[str, TensorHeader], architecture: GgufArchitecture, vocab_size: Any
) -> dict[str, Any]:
    """What only the tensors say."""
    embedding = tensors.get("token_embd.weight")
    _expect(embedding is not None or type(vocab_size) is int, "token_embd.weight is missing")
    found: dict[str, Any] = {
        "vocab_size": embedding.shape[0] if embedding else vocab_size,
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    for key, modules in MODULES.items():
        having = {module for module in modules if f"blk.0.{module}.bias" in tensors}
        if key in architecture.bias_settings:
            found[key] = bool(having)
        usual = {module for module in modules if module in architecture.biased}
        is_usual = having == usual or (key in found and having == {*modules})
        _expect(
            "blk.0.attn_q.weight" not in tensors or is_usual, f"biases of {', '.join(sorted(having ^ usual))}"
        )
    return found


def _scaling(
    given: Mapping[str, Any], theta: float, size: int, factors: list[float] | None
) -> dict[str, Any] | None:
    """How the rotary embedding is stretched."""
    prefix = "rope.scaling."
    keys = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    kind = keys.pop("type", "none")
    if factors is not None:
        _expect(kind == "none", f"factors of frequencies beside a scaling of type {_shown(kind)}")
        return _llama3(theta, size, factors)
    if kind == "none":
        return None
    named = {"factor": "factor", "original_context_length": "original_max_position_embeddings"}
    if kind == "yarn":
        more = {"attn_factor": "attention_factor", "ext_factor": "extrapolation_factor"}
        named |= {f"yarn_{key}": name for key, name in more.items()}
        named |= {f"yarn_{key}": key for key in ("beta_fast", "beta_slow")}
    unknown = [key for key in keys if key not in {*named, "finetuned"}]
    _expect(
        kind in ("linear", "yarn") and not unknown,
        f"a rotary embedding scaled by {_shown(kind)} {_shown(unknown)}",
    )
    return {"rope_type": kind, **{named[key]: value for key, value in keys.items() if key in named}}


def _llama3(theta: float, size: int, factors: list[float]) -> dict[str, Any]:
    """The scaling whose factors these are.

    Raises:
        ConfigError: they are of another one.
    """
    _expect(
        len(factors) == size // 2 > 0, f"rope_freqs.weight has {len(factors)} factors for heads of {size}"
    )
    factor = max(factors)
    expected = []
    for pair in range(size // 2):
        wave = 2 * math.pi * theta ** (2 * pair / size)
        smooth = (FIRST_LENGTH / wave - LOW_FREQUENCIES) / (HIGH_FREQUENCIES - LOW_FREQUENCIES)
        share = min(max(smooth, 0), 1)
        expected.append(1 / ((1 - share) / factor + share) if factor > 0 else math.nan)
    fits = all(math.isclose(one, other, rel_tol=1e-3) for one, other in zip(factors, expected, strict=True))
    _expect(fits, "rope_freqs.weight has other factors than Llama 3's")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQUENCIES,
        "high_freq_factor": HIGH_FREQUENCIES,
        "original_max_position_embeddings": FIRST_LENGTH,
    }


def _of_gemma(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """What llama.cpp knows of Gemma 2 and 3 without being told."""
    layers = SCALED_BY_WIDTH.get(config["model_type"])
    if layers is None:
        return {}
    by_width = config["num_hidden_layers"] == layers
    by_heads = config["hidden_size"] // config["num_attention_heads"]
    return {"query_pre_attn_scalar": by_heads if by_width else size}


def _shown(value: object) -> str:
    return ascii(value)[:80]


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise ConfigError(otherwise)

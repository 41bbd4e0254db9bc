"""GGUF files written by llama.cpp's package: of random models, and of single tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# What a Llama says of itself, without tensors.
LLAMA = {
    "block_count": 1,
    "embedding_length": 256,
    "feed_forward_length": 256,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "vocab_size": 8,
}


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[str, np.ndarray[Any, Any]]],
    settings: Mapping[str, Any] = LLAMA,
    metadata: Mapping[str, Any] | None = None,
    architecture: str = "llama",
) -> Path:
    """Write a GGUF file.

    Args:
        tensors: the type's name, and the bytes (rows, bytes of a row) or, of plain types, the numbers; by name
        settings: of the architecture
        metadata: other keys
    """
    writer = gguf.GGUFWriter(path, architecture)
    named = {f"{architecture}.{key}": value for key, value in settings.items()}
    for key, value in {**named, **(metadata or {})}.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_int32(key, value)
            case np.float64():
                writer.add_float64(key, float(value))
            case np.uint64():
                writer.add_uint64(key, int(value))
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, (kind, content) in tensors.items():
        writer.add_tensor(name, content, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

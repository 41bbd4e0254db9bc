"""Quantizes rows of numbers as llama.cpp does: by libgguf, and the simple types without it by numpy."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.problems import MergeError, Problem
from merging.gguf.types import BF16, F16, F32, Q4_0, Q8_0, FileType, TensorType

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Types that numpy quantizes where libgguf is not installed.
SIMPLE = (F32, F16, BF16, Q8_0, Q4_0)


def check_quantizer(kinds: Iterable[FileType]) -> None:
    """Refuse what cannot be quantized here.

    Raises:
        MergeError: a type needs libgguf, which is not installed.
    """
    if importlib.util.find_spec("libgguf"):
        return
    # A tied head of Q4_0 is Q6_K.
    lacking = [kind.name for kind in kinds if kind.base not in SIMPLE or kind.base == Q4_0]
    if lacking:
        raise MergeError(Problem("gguf-no-quantizer", {"types": lacking}))


def quantize(rows: NDArray[np.float32], kind: TensorType) -> memoryview:
    """The bytes of some rows.

    Args:
        rows: (n, width), C-contiguous; `width` is a multiple of the type's block
        kind: to store them in
    """
    return np.ascontiguousarray(_stored(rows, kind)).reshape(-1).view(np.uint8).data


def _stored(rows: NDArray[np.float32], kind: TensorType) -> NDArray[Any]:
    if kind == F32:
        return rows
    if kind == F16:
        with np.errstate(over="ignore"):
            return rows.astype(np.float16)
    if kind == BF16:
        return _bfloat16(rows)
    return _quantized(rows, kind)


def _bfloat16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest, ties to even; NaN stays NaN."""
    import torch

    return torch.from_numpy(rows).to(torch.bfloat16).view(torch.uint16).numpy()


def _quantized(rows: NDArray[np.float32], kind: TensorType) -> NDArray[Any]:
    if importlib.util.find_spec("libgguf"):
        import libgguf

        return np.asarray(libgguf.quantize_rows(rows, kind.number))
    import gguf

    return np.asarray(gguf.quants.quantize(rows, gguf.GGMLQuantizationType(kind.number)))

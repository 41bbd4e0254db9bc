"""Quantizes rows of numbers as llama.cpp does: by its own function where xllamacpp is installed, else by libgguf.

The simple types need neither: numpy makes them. The bytes are the same, and libgguf takes about twice the time.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.problems import MergeError, Problem
from merging.gguf.types import BF16, F16, F32, Q4_0, Q8_0, FileType, TensorType

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Types that numpy quantizes where neither of the packages is installed.
SIMPLE = (F32, F16, BF16, Q8_0, Q4_0)


def check_quantizer(kinds: Iterable[FileType]) -> None:
    """Refuse what cannot be quantized here.

    Raises:
        MergeError: a type needs a package that is not installed.
    """
    if _native() or importlib.util.find_spec("libgguf"):
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
    if native := _native():
        count, width = rows.shape
        made = np.empty(count * kind.row_bytes(width), np.uint8)
        native(kind.number, rows.ctypes.data, made.ctypes.data, 0, count, width, None)
        return made
    if importlib.util.find_spec("libgguf"):
        import libgguf

        return np.asarray(libgguf.quantize_rows(rows, kind.number))
    import gguf

    return np.asarray(gguf.quants.quantize(rows, gguf.GGMLQuantizationType(kind.number)))


@cache
def _native() -> Callable[..., int] | None:
    """`ggml_quantize_chunk` of the llama.cpp in xllamacpp; None where there is none. Other threads run meanwhile."""
    found = importlib.util.find_spec("xllamacpp")
    folder = Path(found.origin).parent if found and found.origin else Path("none")
    for file in folder.glob("xllamacpp*.so"):
        function: Any = getattr(ctypes.CDLL(str(file)), "ggml_quantize_chunk", None)
        if function:
            number, place = ctypes.c_int64, ctypes.c_void_p
            function.argtypes = [ctypes.c_int, place, place, number, number, number, place]
            function.restype = ctypes.c_size_t
            return function  # type: ignore[no-any-return]
    return None

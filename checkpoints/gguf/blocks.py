"""The types of GGUF tensors: how many bytes a block has, and the numbers in it, by the package `gguf`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from checkpoints.problems import CheckpointError, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Types that are plain floats.
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class BlockType:
    """A type of tensors.

    Args:
        number: in files
        name: such as Q4_K
        elements: of a block
        nbytes: of a block
    """

    number: int
    name: str
    elements: int
    nbytes: int


def check_installed(model: str) -> None:
    """Refuse a model that cannot be read here.

    Raises:
        CheckpointError: the package `gguf` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(Problem("gguf-not-installed", {"package": "gguf"}, model))


@cache
def block_type(number: int) -> BlockType | None:
    """The type of this number; None if its numbers cannot be read."""
    import gguf
    import numpy as np

    try:
        kind = gguf.GGMLQuantizationType(number)
        elements, nbytes = gguf.GGML_QUANT_SIZES[kind]
        gguf.quants.dequantize(np.zeros((1, nbytes), np.uint8), kind)
    except (KeyError, ValueError, NotImplementedError):
        return None
    return BlockType(number, kind.name, elements, nbytes)


def named_type(name: str) -> BlockType | None:
    """The type of this name; None if its numbers cannot be read."""
    import gguf

    return (
        block_type(gguf.GGMLQuantizationType[name].value)
        if name in gguf.GGMLQuantizationType.__members__
        else None
    )


def numbers(data: NDArray[np.uint8], kind: BlockType) -> NDArray[np.float32]:
    """The numbers of some rows.

    Args:
        data: (rows, bytes of a row)

    Returns:
        (rows, width), C-contiguous
    """
    import gguf
    import numpy as np

    # A damaged scale is no number, and makes none.
    with np.errstate(all="ignore"):
        found = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(kind.number))
    return np.ascontiguousarray(found, np.float32)

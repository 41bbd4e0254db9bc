"""What the header of a file says of one tensor, and what it may say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.dtypes import itemsize

# Limits that no model reaches: characters of a name, axes of a tensor, its elements and its bytes.
MAX_NAME, MAX_AXES, MAX_SIZE = 256, 16, 2**63 - 1
# Tensors of one model, of which no model that is known comes near.
MAX_TENSORS = 200_000


@dataclass(frozen=True)
class TensorHeader:
    """Where a tensor is, and of which type and shape.

    Args:
        name: of the tensor
        dtype: safetensors' name, such as BF16
        shape: sizes by axis
        file: that holds it; empty for a tensor that is computed when it is read
        start: offset of its first byte in the file
        nbytes: its length in bytes
        rounds_to: of a tensor that is computed in float32, the dtype that its model stores it in
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    nbytes: int
    rounds_to: str = ""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> str:
        """What a result stores it in, unless the recipe names another dtype."""
        return self.rounds_to or self.dtype

    @property
    def stored_bytes(self) -> int:
        return self.elements * itemsize(self.rounds_to) if self.rounds_to else self.nbytes


def are_sizes(numbers: Any) -> bool:
    """Whether these are whole numbers from 0 to `MAX_SIZE`."""
    return isinstance(numbers, list | tuple) and all(
        type(number) is int and 0 <= number <= MAX_SIZE for number in numbers
    )


def is_within_limits(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor has a name and a shape that files can have."""
    try:
        name.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return len(name) <= MAX_NAME and len(shape) <= MAX_AXES and math.prod(shape) <= MAX_SIZE


def shown(name: str) -> str:
    """A name from a file as a message can show it."""
    return name if name.isprintable() and len(name) <= MAX_NAME else ascii(name[:80])

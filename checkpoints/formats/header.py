"""What the header of a file says of one tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

from checkpoints.dtypes import itemsize


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

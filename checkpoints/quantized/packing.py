"""Small unsigned integers that are packed into int32, the lowest bits first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Numbers of bits that fill 32 without a rest across words.
BITS = (1, 2, 4, 8)


def unpacked(packed: Tensor, bits: int, axis: int, order: Sequence[int] | None = None) -> Tensor:
    """The integers in a matrix of int32, as int32.

    Args:
        packed: (rows, columns)
        bits: of each integer
        axis: along which several are in a word; it grows by 32 // bits
        order: where the i-th integer of a word is in it, by place; None: the i-th lowest bits
    """
    import torch

    count = 32 // bits
    places = torch.tensor(order or range(count), dtype=torch.int32) * bits
    words = packed.unsqueeze(axis + 1)
    shifts = places.view(-1, 1) if axis == 0 else places
    return ((words >> shifts) & ((1 << bits) - 1)).flatten(axis, axis + 1)

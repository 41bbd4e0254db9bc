"""The k-th largest magnitude of a vector that is never held whole.

A sample brackets the answer; one pass counts what lies above the bracket and keeps what lies inside, a percent
or so; the answer is selected there. Floyd and Rivest, 1975 (https://doi.org/10.1145/360680.360691), as passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# Vectors up to this many elements (4 MB) are simply gathered.
SMALL = 1024 * 1024
# Half the width of the bracket, in standard errors of the sample's quantile; if it misses, the next is tried.
MARGINS = (4.0, 40.0, math.inf)


class Vector(Protocol):
    """Something long that is read a block at a time, as often as needed; blocks may be overwritten."""

    @property
    def size(self) -> int:
        """Number of elements."""

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Pairs of an offset and the float32 block that begins there, in order."""

    def sample(self) -> Iterator[tuple[int, Tensor]]:
        """The same for short runs, evenly spread; all of the vector if it is short."""


def kth_largest(vector: Vector, k: int) -> tuple[float, int]:
    """The k-th largest magnitude, exactly.

    Args:
        vector: without NaN
        k: from 1 (the largest) to the vector's size

    Returns:
        The magnitude, and how many are strictly larger.
    """
    if vector.size <= SMALL:
        return _select([magnitudes(block).copy() for _, block in vector], k)
    sample = np.sort(np.concatenate([magnitudes(block).copy() for _, block in vector.sample()]))
    share = k / vector.size
    error = math.sqrt(share * (1 - share) / len(sample)) + 1 / len(sample)
    for margin in MARGINS:
        low = _quantile(sample, 1 - share - margin * error)
        high = _quantile(sample, 1 - share + margin * error)
        above = from_high = from_low = 0
        between = []
        for _, block in vector:
            found = magnitudes(block)
            above += int(np.count_nonzero(found > high))
            from_high += int(np.count_nonzero(found >= high))
            from_low += int(np.count_nonzero(found >= low))
            between.append(found[(found > low) & (found < high)])
        if above < k <= from_high:
            return high, above
        if from_high < k <= from_high + sum(map(len, between)):
            answer, larger = _select(between, k - from_high)
            return answer, larger + from_high
        if from_high < k <= from_low:
            return low, from_high + sum(map(len, between))
    raise AssertionError("a bracket without ends holds every magnitude")


def magnitudes(block: Tensor) -> NDArray[np.float32]:
    """The absolute values of a block, which is overwritten; on the CPU they share its memory."""
    return block.abs_().cpu().numpy()


def _quantile(ordered: NDArray[np.float32], share: float) -> float:
    """An element of an ordered sample; beyond its ends, below or above everything."""
    if share <= 0:
        return -1.0
    return math.inf if share >= 1 else float(ordered[int(share * len(ordered))])


def _select(parts: list[NDArray[Any]], k: int) -> tuple[float, int]:
    gathered = np.concatenate(parts)
    place = len(gathered) - k
    answer = np.partition(gathered, place)[place]
    return float(answer), int(np.count_nonzero(gathered > answer))

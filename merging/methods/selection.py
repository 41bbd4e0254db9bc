"""The k largest magnitudes of a vector that is never held whole.

A sample brackets the k-th largest; one pass counts what lies above the bracket and keeps what lies inside, a
percent or so; the answer is selected there. Floyd and Rivest, 1975 (https://doi.org/10.1145/360680.360691), as
passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    @property
    def row(self) -> int:
        """Number of elements of a row, along the last axis."""

    @property
    def seed(self) -> Sequence[int]:
        """What random choices about it begin with."""

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Pairs of an offset and the float32 block that begins there, in order."""

    def block(self, start: int) -> Tensor:
        """The block that begins at one of these offsets."""

    def sample(self) -> Iterator[tuple[int, Tensor]]:
        """The same for short runs, evenly spread; all of the vector if it is short."""


class Blocks(Protocol):
    """Several tensors of one shape, read a block of each at a time, as often as needed."""

    @property
    def size(self) -> int:
        """Number of elements of one."""

    @property
    def row(self) -> int:
        """Number of elements of a row, along the last axis."""

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Pairs of an offset and the float32 blocks that begin there, in order."""

    def block(self, start: int) -> list[Tensor]:
        """The blocks that begin at one of these offsets."""

    def sample(self) -> Iterator[tuple[int, list[Tensor]]]:
        """The same for short runs, evenly spread; all of the tensors if they are short."""


class Derived:
    """A vector that is made of several tensors, block by block.

    Args:
        blocks: of the tensors
        make: a block of the vector, from the tensors' blocks and their offset
        seed: what random choices about the vector begin with
    """

    def __init__(self, blocks: Blocks, make: Callable[[list[Tensor], int], Tensor], seed: Sequence[int] = ()):
        self.blocks = blocks
        self.make = make
        self.seed = seed
        self.size = blocks.size
        self.row = blocks.row

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return ((start, self.make(blocks, start)) for start, blocks in self.blocks)

    def block(self, start: int) -> Tensor:
        return self.make(self.blocks.block(start), start)

    def sample(self) -> Iterator[tuple[int, Tensor]]:
        return ((start, self.make(blocks, start)) for start, blocks in self.blocks.sample())


class Cut(NamedTuple):
    """Which entries stay: magnitudes above the threshold, and those equal to it up to the index `last`.

    With a threshold below zero everything stays.
    """

    threshold: float
    last: int
    scale: float = 1.0

    def chosen(self, magnitudes: Tensor, start: int) -> Tensor:
        """1 for the entries that stay of the block that begins at `start`, else 0; in place.

        Args:
            magnitudes: not negative
        """
        import torch

        equals = min(max(self.last + 1 - start, 0), len(magnitudes))
        for part, compare in ((magnitudes[:equals], torch.ge), (magnitudes[equals:], torch.gt)):
            compare(part, self.threshold, out=part)
        return magnitudes


def cut_at(vector: Vector, k: int) -> Cut:
    """Where to cut a vector so that exactly its k largest magnitudes stay; among equals, the first in order.

    Args:
        vector: without NaN
        k: from 1 (the largest) to the vector's size
    """
    if vector.size <= SMALL:
        everything = np.concatenate([magnitudes(block).copy() for _, block in vector])
        threshold, larger = _select(everything, k)
        return Cut(threshold, int(np.flatnonzero(everything == threshold)[k - larger - 1]))
    sample = np.sort(np.concatenate([magnitudes(block).copy() for _, block in vector.sample()]))
    share = k / vector.size
    error = math.sqrt(share * (1 - share) / len(sample)) + 1 / len(sample)
    for margin in MARGINS:
        low = _quantile(sample, 1 - share - margin * error)
        high = _quantile(sample, 1 - share + margin * error)
        found = [_bracket(start, block, low, high) for start, block in vector]
        above = sum(part.above for part in found)
        from_high = above + sum(part.at_high for part in found)
        inside = sum(len(part.inside) for part in found)
        if above < k <= from_high:
            return Cut(high, _last(vector, high, k - above, [(p.start, p.at_high) for p in found]))
        if from_high < k <= from_high + inside:
            threshold, larger = _select(np.concatenate([part.inside for part in found]), k - from_high)
            equals = [(p.start, int(np.count_nonzero(p.inside == threshold))) for p in found]
            return Cut(threshold, _last(vector, threshold, k - from_high - larger, equals))
        if from_high + inside < k <= from_high + inside + sum(part.at_low for part in found):
            left = k - from_high - inside
            return Cut(low, _last(vector, low, left, [(p.start, p.at_low) for p in found]))
    raise AssertionError("a bracket without ends holds every magnitude")


class _Bracketed(NamedTuple):
    """What one block has above a bracket, at its two ends (if they differ), and inside."""

    start: int
    above: int
    at_high: int
    inside: NDArray[np.float32]
    at_low: int


def _bracket(start: int, block: Tensor, low: float, high: float) -> _Bracketed:
    found = magnitudes(block)
    above = int(np.count_nonzero(found > high))
    from_high = found >= high
    above_low = found > low
    number_from_high = int(np.count_nonzero(from_high))
    number_above_low = int(np.count_nonzero(above_low))
    inside = found[above_low & ~from_high] if number_above_low > number_from_high else found[:0]
    at_low = int(np.count_nonzero(found >= low)) - max(number_above_low, number_from_high)
    return _Bracketed(start, above, number_from_high - above, inside, at_low)


def _last(vector: Vector, magnitude: float, number: int, equals: Sequence[tuple[int, int]]) -> int:
    """The index of the `number`-th entry of this magnitude; `equals` says how many each block has."""
    for start, count in equals:
        if count >= number:
            return start + int(np.flatnonzero(magnitudes(vector.block(start)) == magnitude)[number - 1])
        number -= count
    raise AssertionError(f"{number} more entries of magnitude {magnitude} were counted than found")


def magnitudes(block: Tensor) -> NDArray[np.float32]:
    """The absolute values of a block, which is overwritten; on the CPU they share its memory."""
    return block.abs_().cpu().numpy()


def _quantile(ordered: NDArray[np.float32], share: float) -> float:
    """An element of an ordered sample; beyond its ends, below or above everything."""
    if share <= 0:
        return -1.0
    return math.inf if share >= 1 else float(ordered[int(share * len(ordered))])


def _select(values: NDArray[np.float32], k: int) -> tuple[float, int]:
    """The k-th largest value, and how many are strictly larger."""
    place = len(values) - k
    answer = np.partition(values, place)[place]
    return float(answer), int(np.count_nonzero(values > answer))

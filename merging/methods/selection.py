"""The k largest magnitudes of a tensor that is never held whole.

A sample brackets the k-th largest; one pass counts what lies above the bracket and keeps what lies inside, a
percent or so; the answer is selected there. Floyd and Rivest, 1975 (https://doi.org/10.1145/360680.360691), as
passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# Tensors of up to this many elements (1 MB) are gathered.
SMALL = 256 * 1024
# Half the width of the bracket, in standard errors of the sample's quantile; if it misses, the next is tried.
MARGINS = (3.0, 30.0, math.inf)
# A value with a larger share of a tensor is counted instead of stored.
FREQUENT = 1 / 256


def held(elements: int, vectors: int, cuts: int) -> int:
    """Bytes that are kept to find cuts: of each vector what is near a cut, and two copies for one at a time.

    Near a cut in the middle are 0.83 % of a vector; near one that drops few of the largest, hardly any.
    """
    near = math.ceil(elements * 4 * 0.0085) + 1_000_000
    return min(vectors * elements * 4, cuts * near * (vectors + 2))


class Blocks(Protocol):
    """K tensors of one shape, read a block of each at a time, as often as needed; blocks may be overwritten."""

    @property
    def size(self) -> int:
        """Number of elements of one tensor."""

    @property
    def row(self) -> int:
        """Number of elements of a row, along the last axis."""

    @property
    def seed(self) -> Sequence[int]:
        """Seed of random choices about these tensors."""

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Pairs of an offset and the K float32 blocks (n,) that begin there, in order."""

    def block(self, start: int) -> list[Tensor]:
        """The K blocks that begin at one of these offsets."""

    def sample(self) -> Iterator[tuple[int, list[Tensor]]]:
        """The same for short runs, evenly spread; all of the tensors if they are short."""


class Derived:
    """One tensor computed from several, block by block: `Blocks` with K = 1.

    Args:
        blocks: of the tensors it is computed from
        make: computes a block (n,) from theirs and their offset
    """

    def __init__(self, blocks: Blocks, make: Callable[[list[Tensor], int], Tensor]):
        self.blocks = blocks
        self.make = make
        self.size = blocks.size
        self.row = blocks.row
        self.seed = blocks.seed

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        return ((start, [self.make(blocks, start)]) for start, blocks in self.blocks)

    def block(self, start: int) -> list[Tensor]:
        return [self.make(self.blocks.block(start), start)]

    def sample(self) -> Iterator[tuple[int, list[Tensor]]]:
        return ((start, [self.make(blocks, start)]) for start, blocks in self.blocks.sample())


class Selection(NamedTuple):
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

        equals = min(max(self.last + 1 - start, 0), magnitudes.numel())
        for part, compare in ((magnitudes[:equals], torch.ge), (magnitudes[equals:], torch.gt)):
            compare(part, self.threshold, out=part)
        return magnitudes


# How many entries of each block, which is known by its offset, have a magnitude.
Counts = list[tuple[int, int]]

# The magnitudes (n,) of the block that begins at an offset.
MagnitudesAt = Callable[[int], "NDArray[np.float32]"]

# Cuts that keep everything, and nothing.
EVERYTHING, NOTHING = Selection(-1.0, 0), Selection(math.inf, 0)

# How many entries are to stay, each from none to all; or what makes that of the number of entries that are not zero.
Numbers = Sequence[int] | Callable[[int], Sequence[int]]


def keep_first(blocks: Blocks, numbers: Sequence[Sequence[int]]) -> list[list[Selection]]:
    """Like `cuts`, but without a pass over the data when everything or nothing is kept.

    Args:
        blocks: of K tensors without NaN
        numbers: of entries to keep, for each tensor
    """
    asked = [[number for number in wanted if 0 < number < blocks.size] for wanted in numbers]
    found = cuts(blocks, asked) if any(asked) else [[] for _ in asked]
    known = [dict(zip(*pair, strict=True)) for pair in zip(asked, found, strict=True)]
    return [
        [of_one.get(number, EVERYTHING if number > 0 else NOTHING) for number in wanted]
        for of_one, wanted in zip(known, numbers, strict=True)
    ]


def cuts(blocks: Blocks, numbers: Sequence[Numbers]) -> list[list[Selection]]:
    """Where to cut tensors so that exactly the given number of largest magnitudes stays; among equals, the first.

    One pass serves all tensors; a bracket that misses costs a second one.

    Args:
        blocks: of K tensors without NaN
        numbers: of entries to keep, for each tensor

    Returns:
        K lists, one cut for each number.
    """
    if blocks.size <= SMALL:
        whole = _gathered(blocks)
        return [
            [_cut_of(values, k) for k in _known(wanted, int(np.count_nonzero(values)))]
            for values, wanted in zip(whole, numbers, strict=True)
        ]
    samples = [np.sort(sample) for sample in _gathered(blocks.sample())]
    searches = [
        _Search(blocks, index, sample, wanted)
        for index, (sample, wanted) in enumerate(zip(samples, numbers, strict=True))
    ]
    for margin in MARGINS:
        for search in searches:
            search.begin(margin)
        for start, given in blocks:
            for search, block in zip(searches, given, strict=True):
                search.see(start, block)
        complete = [search.end() for search in searches]
        if all(complete):
            return [search.found() for search in searches]
    raise AssertionError("an infinite bracket contains every magnitude")


def square_sum(block: Tensor) -> float:
    """The sum of squares of a float32 block, in float64, where each square is exact."""
    import torch

    wide = block.double()
    return torch.dot(wide, wide).item()


def _gathered(blocks: Iterable[tuple[int, list[Tensor]]]) -> list[NDArray[np.float32]]:
    """The magnitudes of each vector, one array each."""
    parts = [[magnitudes(block).copy() for block in given] for _, given in blocks]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _known(numbers: Numbers, nonzero: int) -> Sequence[int]:
    return numbers(nonzero) if callable(numbers) else numbers


def _cut_of(everything: NDArray[np.float32], k: int) -> Selection:
    if k == 0:
        return NOTHING
    threshold, larger = _select(everything, k)
    return Selection(threshold, int(np.flatnonzero(everything == threshold)[k - larger - 1]))


class _Search:
    """The search for the cuts of one tensor, which may take several passes.

    Args:
        blocks: of all tensors
        index: of the tensor among them
        sample: of its magnitudes, sorted
        numbers: of entries to keep
    """

    def __init__(self, blocks: Blocks, index: int, sample: NDArray[np.float32], numbers: Numbers):
        self.blocks = blocks
        self.index = index
        self.sample = sample
        self.numbers = numbers
        share = np.count_nonzero(sample) / len(sample)
        self.wanted = _known(numbers, round(float(share) * blocks.size))
        self.cuts: dict[int, Selection] = {}
        self.brackets: dict[int, _Bracket] = {}
        self.counted = 0

    def begin(self, margin: float) -> None:
        missing = (number for number in range(len(self.wanted)) if number not in self.cuts)
        self.brackets = {number: self._around(self.wanted[number], margin) for number in missing}
        self.counted = 0

    def _around(self, k: int, margin: float) -> _Bracket:
        """The bracket that should hold the k-th largest magnitude."""
        share, size = k / self.blocks.size, len(self.sample)
        error = math.sqrt(share * (1 - share) / size) + 1 / size
        low, high = (_quantile(self.sample, 1 - share + way * margin * error) for way in (-1, 1))
        return _Bracket(self.sample, low, high)

    def see(self, start: int, block: Tensor) -> None:
        if not self.brackets:
            return
        found = magnitudes(block)
        if callable(self.numbers):
            self.counted += int(np.count_nonzero(found > 0))  # truth values are counted faster than floats
        for bracket in self.brackets.values():
            bracket.see(start, found)

    def end(self) -> bool:
        """Whether all cuts are known, after a pass."""
        if self.brackets:
            self.wanted = _known(self.numbers, self.counted)
        for number, bracket in self.brackets.items():
            cut = bracket.cut(self._magnitudes, self.wanted[number])
            if cut:
                self.cuts[number] = cut
        return len(self.cuts) == len(self.wanted)

    def _magnitudes(self, start: int) -> NDArray[np.float32]:
        return magnitudes(self.blocks.block(start)[self.index])

    def found(self) -> list[Selection]:
        return [self.cuts[number] for number in range(len(self.wanted))]


class _Bracket:
    """Counts the magnitudes above the bracket, and stores those inside it.

    Both bounds are inclusive. A bound that occurs often (bfloat16 deltas take few distinct values) is counted per
    block instead of stored.
    """

    def __init__(self, sample: NDArray[np.float32], low: float, high: float):
        self.low, self.high = low, high
        self.above = 0
        self.at_low: Counts | None = [] if _is_frequent(sample, low) else None
        self.at_high: Counts | None = [] if _is_frequent(sample, high) else None
        self.inside: list[tuple[int, NDArray[np.float32]]] = []

    def see(self, start: int, found: NDArray[np.float32]) -> None:
        """Take the magnitudes of the block that begins at `start`."""
        above = found > self.high
        count = int(np.count_nonzero(above))
        self.above += count
        if self.at_high is not None:
            above = found >= self.high
            self.at_high.append((start, int(np.count_nonzero(above)) - count))
            if self.low == self.high:
                return
        if self.at_low is None:
            rest = found >= self.low
        else:
            rest = found > self.low
            equals = int(np.count_nonzero(found >= self.low)) - int(np.count_nonzero(rest))
            self.at_low.append((start, equals))
        places = np.flatnonzero(np.logical_xor(rest, above, out=rest))
        if len(places):
            self.inside.append((start, found[places]))

    def cut(self, magnitudes_at: MagnitudesAt, k: int) -> Selection | None:
        """The cut, if the k-th largest magnitude was in the bracket."""
        if k == 0:
            return NOTHING
        k -= self.above
        if k <= 0:
            return None
        at_high = self.at_high or []
        if k <= (count := sum(n for _, n in at_high)):
            return Selection(self.high, _last(magnitudes_at, self.high, k, at_high))
        k -= count
        if k <= (count := sum(len(values) for _, values in self.inside)):
            threshold, larger = _select(np.concatenate([values for _, values in self.inside]), k)
            equals = [(start, int(np.count_nonzero(values == threshold))) for start, values in self.inside]
            return Selection(threshold, _last(magnitudes_at, threshold, k - larger, equals))
        k -= count
        at_low = self.at_low or []
        return (
            Selection(self.low, _last(magnitudes_at, self.low, k, at_low))
            if k <= sum(n for _, n in at_low)
            else None
        )


def _is_frequent(ordered: NDArray[np.float32], value: float) -> bool:
    """Whether a value has more than its share of an ordered sample."""
    first, last = (int(np.searchsorted(ordered, np.float32(value), side)) for side in ("left", "right"))
    return last - first > FREQUENT * len(ordered)


def _last(magnitudes_at: MagnitudesAt, magnitude: float, number: int, equals: Counts) -> int:
    """The index of the `number`-th entry of this magnitude; `equals` says how many each block has."""
    for start, count in equals:
        if count >= number:
            return start + int(np.flatnonzero(magnitudes_at(start) == magnitude)[number - 1])
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

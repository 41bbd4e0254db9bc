"""The k largest magnitudes of a vector that is never held whole.

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

# Vectors up to this many elements (1 MB) are simply gathered.
SMALL = 256 * 1024
# Half the width of the bracket, in standard errors of the sample's quantile; if it misses, the next is tried.
MARGINS = (3.0, 30.0, math.inf)
# What has a larger share of a vector is not kept, but counted.
FREQUENT = 1 / 256


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

        equals = min(max(self.last + 1 - start, 0), magnitudes.numel())
        for part, compare in ((magnitudes[:equals], torch.ge), (magnitudes[equals:], torch.gt)):
            compare(part, self.threshold, out=part)
        return magnitudes


# How many entries of each block, which is known by its offset, have a magnitude.
Counts = list[tuple[int, int]]

# Cuts with which everything stays, and nothing.
EVERYTHING, NOTHING = Cut(-1.0, 0), Cut(math.inf, 0)

# How many entries are to stay, each from none to all; or what makes that of the number of entries that are not zero.
Numbers = Sequence[int] | Callable[[int], Sequence[int]]


def keep_first(
    blocks: Blocks, vectors: Sequence[Vector], numbers: Sequence[Sequence[int]]
) -> list[list[Cut]]:
    """The same as `cuts_of_each`, which is not asked, and so reads nothing, where all stay or none."""
    asked = [[number for number in wanted if 0 < number < blocks.size] for wanted in numbers]
    found = cuts_of_each(blocks, vectors, asked) if any(asked) else [[] for _ in asked]
    cuts = [dict(zip(*pair, strict=True)) for pair in zip(asked, found, strict=True)]
    return [
        [known.get(number, EVERYTHING if number > 0 else NOTHING) for number in wanted]
        for known, wanted in zip(cuts, numbers, strict=True)
    ]


def cuts_at(vector: Vector, numbers: Numbers) -> list[Cut]:
    """Where to cut one vector; see `cuts_of_each`."""
    return cuts_of_each(_Alone(vector), [vector], [numbers])[0]


def cuts_of_each(blocks: Blocks, vectors: Sequence[Vector], numbers: Sequence[Numbers]) -> list[list[Cut]]:
    """Where to cut vectors so that exactly so many of the largest magnitudes of each stay; among equals, the first.

    Args:
        blocks: of all the vectors, so that one pass serves all
        vectors: the same, one by one; without NaN
        numbers: for each vector
    """
    if blocks.size <= SMALL:
        whole = _gathered(blocks)
        return [
            [_cut_of(values, k) for k in _known(wanted, int(np.count_nonzero(values)))]
            for values, wanted in zip(whole, numbers, strict=True)
        ]
    samples = [np.sort(sample) for sample in _gathered(blocks.sample())]
    searches = [_Search(*one) for one in zip(vectors, samples, numbers, strict=True)]
    return _found(blocks, searches, MARGINS)


def _found(blocks: Blocks, searches: Sequence[_Search], margins: Sequence[float]) -> list[list[Cut]]:
    """The cuts of searches, by passes with these margins until all are known; the last has to be infinite."""
    for margin in margins:
        for search in searches:
            search.begin(margin)
        for start, given in blocks:
            for search, block in zip(searches, given, strict=True):
                search.see(start, block)
        complete = [search.end() for search in searches]
        if all(complete):
            return [search.found() for search in searches]
    raise AssertionError("a bracket without ends holds every magnitude")


def cut_with_squares(
    blocks: Blocks, make: Callable[[list[Tensor]], Tensor], number: Callable[[int], int]
) -> tuple[Cut, list[float] | None]:
    """Where to cut a vector that is made of several tensors, and the sum of the squares of each of them where it stays.

    Args:
        blocks: of the tensors
        make: a block of the vector; leaves the tensors' blocks alone
        number: how many entries are to stay, of how many that are not zero

    Returns:
        The cut, and the sums if the pass that found it knew them.
    """
    import torch

    vector = Derived(blocks, lambda given, _: make(given))
    if blocks.size <= SMALL:
        return cuts_at(vector, lambda nonzero: [number(nonzero)])[0], None
    (sample,) = _gathered(_Alone(vector).sample())
    search = _Search(vector, np.sort(sample), lambda nonzero: [number(nonzero)])
    search.begin(MARGINS[0])
    sums: list[float] = []
    kept: list[list[NDArray[np.float32]]] = []
    for start, given in blocks:
        ((above, places),) = search.see(start, make(given))
        kept.append([block.cpu().numpy()[places] for block in given])
        surely = torch.from_numpy(above.view(np.uint8)).float().to(given[0].device)
        found = [square_sum(block.mul_(surely)) for block in given]
        sums = [a + b for a, b in zip(sums or [0.0] * len(found), found, strict=True)]
    if not search.end():
        ((cut,),) = _found(_Alone(vector), [search], MARGINS[1:])  # not the first once more
        return cut, None
    (cut,) = search.found()
    stays = search.brackets[0].staying(cut, search.wanted[0])
    if stays is None:
        return cut, None
    rest = [square_sum(torch.from_numpy(np.concatenate(of_one)[stays])) for of_one in zip(*kept, strict=True)]
    return cut, [a + b for a, b in zip(sums, rest, strict=True)]


def square_sum(block: Tensor) -> float:
    """The sum of squares. Those of float32 numbers are exact in float64; a dot product makes and adds them at once."""
    import torch

    wide = block.double()
    return torch.dot(wide, wide).item()


def _gathered(blocks: Iterable[tuple[int, list[Tensor]]]) -> list[NDArray[np.float32]]:
    """The magnitudes of each vector, one array each."""
    parts = [[magnitudes(block).copy() for block in given] for _, given in blocks]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _known(numbers: Numbers, nonzero: int) -> Sequence[int]:
    return numbers(nonzero) if callable(numbers) else numbers


def _cut_of(everything: NDArray[np.float32], k: int) -> Cut:
    if k == 0:
        return NOTHING
    threshold, larger = _select(everything, k)
    return Cut(threshold, int(np.flatnonzero(everything == threshold)[k - larger - 1]))


class _Alone:
    """One vector, as several."""

    def __init__(self, vector: Vector):
        self.vector = vector
        self.size = vector.size
        self.row = vector.row

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        return ((start, [block]) for start, block in self.vector)

    def block(self, start: int) -> list[Tensor]:
        return [self.vector.block(start)]

    def sample(self) -> Iterator[tuple[int, list[Tensor]]]:
        return ((start, [block]) for start, block in self.vector.sample())


class _Search:
    """The search for the cuts of one vector, which may take several passes.

    Args:
        vector: to be cut
        sample: of its magnitudes, in their order
        numbers: of entries that are to stay
    """

    def __init__(self, vector: Vector, sample: NDArray[np.float32], numbers: Numbers):
        self.vector = vector
        self.sample = sample
        self.numbers = numbers
        share = np.count_nonzero(sample) / len(sample)
        self.wanted = _known(numbers, round(float(share) * vector.size))
        self.cuts: dict[int, Cut] = {}
        self.brackets: dict[int, _Bracket] = {}
        self.counted = 0

    def begin(self, margin: float) -> None:
        missing = (number for number in range(len(self.wanted)) if number not in self.cuts)
        self.brackets = {number: self._around(self.wanted[number], margin) for number in missing}
        self.counted = 0

    def _around(self, k: int, margin: float) -> _Bracket:
        """The bracket that should hold the k-th largest magnitude."""
        share, size = k / self.vector.size, len(self.sample)
        error = math.sqrt(share * (1 - share) / size) + 1 / size
        low, high = (_quantile(self.sample, 1 - share + way * margin * error) for way in (-1, 1))
        return _Bracket(self.sample, low, high)

    def see(self, start: int, block: Tensor) -> list[_Seen]:
        if not self.brackets:
            return []
        found = magnitudes(block)
        if callable(self.numbers):
            self.counted += int(np.count_nonzero(found > 0))  # truth values are counted faster than floats
        return [bracket.see(start, found) for bracket in self.brackets.values()]

    def end(self) -> bool:
        """Whether all cuts are known, after a pass."""
        if self.brackets:
            self.wanted = _known(self.numbers, self.counted)
        for number, bracket in self.brackets.items():
            cut = bracket.cut(self.vector, self.wanted[number])
            if cut:
                self.cuts[number] = cut
        return len(self.cuts) == len(self.wanted)

    def found(self) -> list[Cut]:
        return [self.cuts[number] for number in range(len(self.wanted))]


class _Seen(NamedTuple):
    """Which entries of a block are above a bracket, and the places of those that lie in it."""

    above: NDArray[np.bool_]
    inside: NDArray[np.intp]


class _Bracket:
    """Counts what a vector has above the bracket, and keeps what lies in it.

    The ends lie in it, unless they are frequent, for changes of weights in bfloat16 are a few steps long. Equals of a
    frequent end are only counted, block by block.
    """

    def __init__(self, sample: NDArray[np.float32], low: float, high: float):
        self.low, self.high = low, high
        self.above = 0
        self.at_low: Counts | None = [] if _is_frequent(sample, low) else None
        self.at_high: Counts | None = [] if _is_frequent(sample, high) else None
        self.inside: list[tuple[int, NDArray[np.float32]]] = []

    def see(self, start: int, found: NDArray[np.float32]) -> _Seen:
        """Take the magnitudes of the block that begins at `start`."""
        above = found > self.high
        count = int(np.count_nonzero(above))
        self.above += count
        if self.at_high is not None:
            above = found >= self.high
            self.at_high.append((start, int(np.count_nonzero(above)) - count))
            if self.low == self.high:
                return _Seen(above, np.empty(0, np.intp))
        if self.at_low is None:
            rest = found >= self.low
        else:
            rest = found > self.low
            equals = int(np.count_nonzero(found >= self.low)) - int(np.count_nonzero(rest))
            self.at_low.append((start, equals))
        places = np.flatnonzero(np.logical_xor(rest, above, out=rest))
        if len(places):
            self.inside.append((start, found[places]))
        return _Seen(above, places)

    def staying(self, cut: Cut, k: int) -> NDArray[np.bool_] | None:
        """Which of those that are kept stay when k entries do; None if the cut is not among them."""
        k -= self.above + sum(count for _, count in self.at_high or [])
        values = np.concatenate([values for _, values in self.inside] or [np.empty(0, np.float32)])
        if not 0 < k <= len(values):
            return None
        stays = values > cut.threshold
        stays[np.flatnonzero(values == cut.threshold)[: k - int(np.count_nonzero(stays))]] = True
        return stays

    def cut(self, vector: Vector, k: int) -> Cut | None:
        """The cut, if the k-th largest magnitude was in the bracket."""
        if k == 0:
            return NOTHING
        k -= self.above
        if k <= 0:
            return None
        at_high = self.at_high or []
        if k <= (count := sum(n for _, n in at_high)):
            return Cut(self.high, _last(vector, self.high, k, at_high))
        k -= count
        if k <= (count := sum(len(values) for _, values in self.inside)):
            threshold, larger = _select(np.concatenate([values for _, values in self.inside]), k)
            equals = [(start, int(np.count_nonzero(values == threshold))) for start, values in self.inside]
            return Cut(threshold, _last(vector, threshold, k - larger, equals))
        k -= count
        at_low = self.at_low or []
        return Cut(self.low, _last(vector, self.low, k, at_low)) if k <= sum(n for _, n in at_low) else None


def _is_frequent(ordered: NDArray[np.float32], value: float) -> bool:
    """Whether a value has more than its share of an ordered sample."""
    first, last = (int(np.searchsorted(ordered, np.float32(value), side)) for side in ("left", "right"))
    return last - first > FREQUENT * len(ordered)


def _last(vector: Vector, magnitude: float, number: int, equals: Counts) -> int:
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

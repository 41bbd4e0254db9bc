"""Sparsifiers: what sets part of a task vector to zero before a method sees it.

A sparsifier measures each whole task vector once, then treats it block by block. Its keyword-only arguments
of `measure` are parameters, declared like a method's. Blocks are float32, and may be overwritten.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from merging.methods.arithmetic import scaled
from merging.methods.parameters import Density, Parameter, PerModel, parameters_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from merging.methods.selection import Blocks, Selection


# Sums of magnitudes below this are not divided by.
SMALLEST_SUM = 1e-7
# Random draws have 16 bits, and so are below this.
LIMIT = 2**16


class Sparsifier(ABC):
    """Measures a whole task vector, then sets part of each block to zero.

    The keyword-only arguments of `measure` are the parameters; the other methods get them as a mapping.
    """

    is_random = False
    # Whether `apply` needs blocks of whole rows.
    by_rows = False

    def measures(self, arguments: Mapping[str, Any]) -> bool:
        """Whether `measure` reads the vector at all, under these parameters."""
        return True

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is wrong with these parameters, as a phrase of problems, or None; per-model ones come as lists."""
        return None

    def numbers(self, size: int, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        """How many of the largest magnitudes stay, of a vector of `size`. `measure` gets a cut for each."""
        return ()

    @abstractmethod
    def measure(self, vector: Blocks, cuts: Sequence[Selection]) -> Any:
        """What `apply` has to know of the whole."""

    @abstractmethod
    def apply(self, block: Tensor, start: int, measured: Any) -> Tensor:
        """The block that begins at offset `start`, sparsified."""

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return parameters_of(type(self).measure)


class KeepLargest(Sparsifier):
    """Keeps the largest magnitudes of the whole tensor; among equals, the first in order.

    Fine-tuned weights stored in bfloat16 differ from their base by a few steps, so that many magnitudes are
    equal: without the rule for equals far more than the asked share would stay.
    """

    def numbers(self, size: int, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        density = arguments["density"]
        return (max(int(density * size), 1) if density > 0 else 0,)

    def measure(
        self,
        vector: Blocks,
        cuts: Sequence[Selection],
        *,
        density: Density = 1.0,  # type: ignore[assignment]
        rescale: bool = False,
    ) -> Selection:
        """The cut.

        Args:
            density: share of each task vector to keep, largest magnitudes first
            rescale: rescale what is kept, to preserve the sum of magnitudes
        """
        (cut,) = cuts
        if not rescale:
            return cut
        return cut._replace(scale=_l1_ratio(vector, lambda block, start: self.apply(block, start, cut)))

    def apply(self, block: Tensor, start: int, measured: Selection) -> Tensor:
        return scaled(_kept(block, start, measured, out=block), measured.scale)


class KeepMiddle(Sparsifier):
    """Drops the largest magnitudes of the whole tensor and the smallest (Model Breadcrumbs, arXiv 2312.06795).

    What is dropped at the top makes room at the bottom, so that the density is what is asked for, unless there are
    too few entries.
    """

    def numbers(self, size: int, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        density, gamma = arguments["density"], arguments["gamma"]
        kept = int(density * size)
        largest = min(int(gamma * size), size - kept) if density < 1 else 0
        return kept + largest, largest

    def measure(
        self,
        vector: Blocks,
        cuts: Sequence[Selection],
        *,
        density: Density = 1.0,  # type: ignore[assignment]
        gamma: Density = 0.01,  # type: ignore[assignment]
        rescale: bool = False,
    ) -> tuple[Selection, Selection, float]:
        """The two cuts.

        Args:
            density: share of each task vector to keep; 1 keeps everything, including the largest entries
            gamma: share of each task vector to drop as its largest entries
            rescale: rescale what is kept, to preserve the sum of magnitudes
        """
        lower, upper = cuts
        if not rescale:
            return lower, upper, 1.0
        return (
            lower,
            upper,
            _l1_ratio(vector, lambda block, start: self.apply(block, start, (lower, upper, 1.0))),
        )

    def apply(self, block: Tensor, start: int, measured: tuple[Selection, Selection, float]) -> Tensor:
        import torch

        lower, upper, scale = measured
        if not math.isinf(upper.threshold):
            block.sub_(_kept(block, start, upper, out=torch.empty_like(block)))
        return scaled(_kept(block, start, lower, out=block), scale)


class Draws:
    """A random number of 16 bits for every place of a tensor, the same whatever stretches are asked for.

    The generator goes to any place at once, and stays where it is: to make one takes as long as a third of a block's
    numbers. One thread at a time may ask.

    Args:
        seed: of the tensor
    """

    def __init__(self, seed: Sequence[int]):
        import numpy as np

        self._generator = np.random.PCG64(np.random.SeedSequence(seed))
        self._place = 0  # in numbers of 64 bits, four draws each

    def at(self, start: int, length: int) -> NDArray[np.uint16]:
        """The draws of a stretch."""
        import numpy as np

        first, before = divmod(start, 4)
        count = math.ceil((before + length) / 4)
        if first != self._place:
            self._generator.advance((first - self._place) % 2**128)  # back is once around
        self._place = first + count
        return self._generator.random_raw(count).view(np.uint16)[before : before + length]


class Draw(NamedTuple):
    """What is kept at random: entries whose draw of 16 bits is below `kept`, times a scale."""

    draws: Draws
    kept: int
    scale: float


class KeepAtRandom(Sparsifier):
    """Keeps each entry with the same probability, and makes what is kept larger (DARE, arXiv 2311.03099).

    The draws depend on the recipe's seed, the tensor's name, the model's place in the recipe and the entry's
    place in the tensor, and on nothing else.
    """

    is_random = True

    def measures(self, arguments: Mapping[str, Any]) -> bool:
        return bool(arguments["rescale"]) and arguments["rescale_norm"] == "l1"

    def measure(
        self,
        vector: Blocks,
        cuts: Sequence[Selection],
        *,
        density: Density = 1.0,  # type: ignore[assignment]
        rescale: bool = True,
        rescale_norm: Literal["expected", "l1"] = "expected",
    ) -> Draw:
        """Find the scale.

        Args:
            density: share of each task vector to keep, in steps of 1/65536; the seed decides which entries
            rescale: rescale what is kept, to preserve the expected value
            rescale_norm: expected divides by the density, as in the paper; l1 preserves the sum of magnitudes
        """
        share: float = density  # type: ignore[assignment]
        kept = round(share * LIMIT)
        draw = Draw(Draws(vector.seed), kept, LIMIT / kept if kept and rescale else 1.0)
        if not rescale or rescale_norm == "expected":
            return draw
        return draw._replace(
            scale=_l1_ratio(vector, lambda v, start: self.apply(v, start, draw._replace(scale=1.0)))
        )

    def apply(self, block: Tensor, start: int, measured: Draw) -> Tensor:
        if measured.kept == LIMIT:
            return block
        if measured.kept == 0:
            return block.zero_()
        return block.mul_(_keep(measured, start, block.numel()).to(block.device))


def _keep(draw: Draw, start: int, length: int) -> Tensor:
    """The factors of a stretch: the scale where an entry is kept, and zero elsewhere."""
    import torch

    kept = draw.draws.at(start, length) < draw.kept
    # The truth values' bytes as numbers: torch turns bytes into floats faster than it selects by them.
    return scaled(torch.from_numpy(kept.view("uint8")).float(), draw.scale)


class RankedDraw(NamedTuple):
    """What is kept at random by rank: entries whose draw of 16 bits is below 65536 times their probability, which
    rises from `lowest` to `highest` along a row; divided by it, if `is_expected`, and times a scale."""

    draws: Draws
    row: int
    lowest: float
    highest: float
    is_expected: bool
    scale: float


class KeepByRank(Sparsifier):
    """Keeps large entries of a row more probably than small ones (MAGPRUNE of DELLA, arXiv 2406.11617).

    Ranks are counted in 32 bins an octave, over 16 octaves below the row's largest magnitude: what falls into one
    bin (magnitudes that differ by some 3 % at most) has the mean of its ranks, and so equal magnitudes have equal
    chances and the density of a row is exactly what is asked for on average. A sort would cost three times as much.
    Draws depend on what those of `KeepAtRandom` depend on.
    """

    is_random = True
    by_rows = True

    def measures(self, arguments: Mapping[str, Any]) -> bool:
        return bool(arguments["rescale"]) and arguments["rescale_norm"] == "l1"

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        pairs = dict.fromkeys(zip(arguments["density"], arguments["epsilon"], strict=True))
        wrong = [
            {"phrase": "keep-probability", "density": f"{middle:g}", "epsilon": f"{reach:g}"}
            | {"low": f"{middle - reach:g}", "high": f"{middle + reach:g}"}
            for middle, reach in pairs
            if 0 < middle < 1 and not (middle - reach > 0 and middle + reach < 1)
        ]
        return {"phrase": "keep-probabilities", "wrong": wrong} if wrong else None

    def measure(
        self,
        vector: Blocks,
        cuts: Sequence[Selection],
        *,
        density: Density = 1.0,  # type: ignore[assignment]
        epsilon: Annotated[list[float], PerModel(0.0, 0.5)] = 0.15,  # type: ignore[assignment]
        rescale: bool = True,
        rescale_norm: Literal["expected", "l1"] = "expected",
    ) -> RankedDraw | None:
        """Find the scale.

        Args:
            density: share of each task vector to keep; 1 keeps everything
            epsilon: how far keep probabilities differ from the density: up for large entries of a row, down for small
            rescale: rescale what is kept, to preserve the expected value
            rescale_norm: expected divides by the keep probability, as in the paper; l1 preserves the sum of magnitudes
        """
        share: float = density  # type: ignore[assignment]
        reach: float = epsilon  # type: ignore[assignment]
        if share >= 1:
            return None
        by_chance = rescale and rescale_norm == "expected"
        ends = (share - reach, share + reach) if share > 0 else (0.0, 0.0)
        draw = RankedDraw(Draws(vector.seed), vector.row, *ends, by_chance, 1.0)
        if not rescale or by_chance:
            return draw
        return draw._replace(scale=_l1_ratio(vector, lambda v, start: self.apply(v, start, draw)))

    def apply(self, block: Tensor, start: int, measured: RankedDraw | None) -> Tensor:
        import torch

        if measured is None:
            return block
        if measured.highest == 0:
            return block.zero_()
        draws = torch.from_numpy(measured.draws.at(start, block.numel()).astype("float32"))
        step = max(RANKED // max(measured.row, RANK_BINS // 2), 1) * measured.row
        for first in range(0, block.numel(), step):
            part = block[first : first + step]
            rows = part.view(-1, measured.row)
            limits = _by_rank(rows, measured.lowest * LIMIT, measured.highest * LIMIT)
            drawn = draws[first : first + step].to(block.device)
            part.mul_(torch.gt(limits, drawn, out=drawn))
            if measured.is_expected:
                part.div_(limits).mul_(LIMIT)
            elif measured.scale != 1:
                part.mul_(measured.scale)
        return block


# The number of bins of magnitudes, the lower bits in which the floats of a bin differ, and how many elements
# are counted at once.
RANK_BINS, RANK_SHIFT, RANKED = 512, 18, 128 * 1024


def _by_rank(rows: Tensor, lowest: float, highest: float) -> Tensor:
    """For each entry a number that rises with its rank in the row, flat."""
    import torch

    count, length = rows.shape
    if length == 1:
        return torch.full((count,), (lowest + highest) / 2, device=rows.device)
    # The bits of floats without a sign are in the order of their size.
    bits = rows.view(torch.int32).bitwise_and(0x7FFFFFFF).bitwise_right_shift_(RANK_SHIFT)
    # The bins of a row follow those of the row before; its largest entry is in the last.
    firsts = torch.arange(0, count * RANK_BINS, RANK_BINS, dtype=torch.int32, device=rows.device)[:, None]
    bits.add_(firsts + (RANK_BINS - 1) - bits.amax(dim=1, keepdim=True))
    bins = torch.maximum(bits, firsts, out=bits).long().flatten()
    counts = torch.zeros(count * RANK_BINS, dtype=torch.int32, device=rows.device)
    counts.scatter_add_(0, bins, torch.ones(bins.numel(), dtype=torch.int32, device=rows.device))
    # Entries of a bin have the ranks below its cumulated count, from 0 on; this is their mean.
    counts = counts.view(count, RANK_BINS)
    ranks = counts.cumsum(dim=1, dtype=torch.int32).float().add_(counts, alpha=-0.5).sub_(0.5).flatten()
    ranks.mul_((highest - lowest) / (length - 1)).add_(lowest)
    return torch.index_select(ranks, 0, bins)


def _l1_ratio(vector: Blocks, sparsified: Callable[[Tensor, int], Tensor]) -> float:
    """The sum of a vector's magnitudes over that of what a sparsifier leaves; 1 where one of them is nearly 0."""
    before = after = 0.0
    for start, (block,) in vector:
        before += block.abs().double().sum().item()
        after += sparsified(block, start).abs().double().sum().item()
    return 1.0 if min(before, after) < SMALLEST_SUM else before / after


def _kept(block: Tensor, start: int, cut: Selection, out: Tensor) -> Tensor:
    """The block that begins at `start` with zeros for what does not stay, written to `out`."""
    import torch

    equals = min(max(cut.last + 1 - start, 0), block.numel())
    if 0 < equals < block.numel():
        _kept(block[:equals], start, cut, out[:equals])
        _kept(block[equals:], start + equals, cut, out[equals:])
        return out
    # What is strictly above the threshold stays; above one float below it, its equals stay as well.
    threshold = _float_below(cut.threshold) if equals else cut.threshold
    if threshold >= 0:
        return torch.hardshrink(block, threshold, out=out)
    return block if out is block else out.copy_(block)


@lru_cache
def _float_below(value: float) -> float:
    """The largest float32 below a positive float32; -1 for zero, below which no magnitude lies."""
    import numpy as np

    return float(np.nextafter(np.float32(value), np.float32(0))) if value > 0 else -1.0

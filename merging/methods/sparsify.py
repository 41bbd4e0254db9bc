"""Sparsifiers: what sets part of a task vector to zero before a method sees it.

A sparsifier measures each whole task vector once, then treats it block by block. Its keyword-only arguments
of `measure` are parameters, declared like a method's. Blocks are float32, and may be overwritten.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from merging.methods.parameters import Density, Parameter, parameters_of

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods.selection import Vector

__all__ = ["Cut", "Density", "KeepLargest", "Sparsifier"]


class Sparsifier(ABC):
    """Measures a whole task vector, then sets part of each block to zero."""

    is_random = False

    @abstractmethod
    def measure(self, vector: Vector) -> Any:
        """What `apply` has to know of the whole; keyword-only arguments are parameters."""

    @abstractmethod
    def apply(self, block: Tensor, start: int, measured: Any) -> Tensor:
        """The block that begins at offset `start`, sparsified."""

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return parameters_of(type(self).measure)


class Cut(NamedTuple):
    """Which entries stay: magnitudes above the threshold, and those equal to it up to the index `last`.

    With a threshold below zero everything stays.
    """

    threshold: float
    last: int
    scale: float = 1.0


class KeepLargest(Sparsifier):
    """Keeps the largest magnitudes of the whole tensor; among equals, the first in order.

    Fine-tuned weights stored in bfloat16 differ from their base by a few steps, so that many magnitudes are
    equal: without the rule for equals far more than the asked share would stay.
    """

    def measure(self, vector: Vector, *, density: Density = 1.0, rescale: bool = False) -> Cut:  # type: ignore[assignment]
        """Find the cut.

        Args:
            density: share of each task vector that is kept, the largest magnitudes first
            rescale: multiply what is kept so that the sum of magnitudes stays what it was
        """
        from merging.methods.selection import kth_largest

        share: float = density  # type: ignore[assignment]
        if share >= 1:
            return Cut(-1.0, 0)
        if share <= 0:
            return Cut(math.inf, 0)
        kept = max(1, int(share * vector.size))
        threshold, larger = kth_largest(vector, kept)
        cut = Cut(threshold, _place_of_equal(vector, threshold, kept - larger))
        if not rescale:
            return cut
        before = after = 0.0
        for start, block in vector:
            before += block.abs().double().sum().item()
            after += self.apply(block, start, cut).abs().double().sum().item()
        return cut if min(before, after) < 1e-7 else cut._replace(scale=before / after)

    def apply(self, block: Tensor, start: int, measured: Cut) -> Tensor:
        from torch.nn.functional import hardshrink

        if measured.threshold < 0:
            return block
        if math.isinf(measured.threshold):
            return block.zero_()
        # hardshrink keeps what is strictly above; one float below the threshold keeps its equals as well.
        below = _float_below(measured.threshold)
        equals = min(max(measured.last + 1 - start, 0), len(block))
        if below >= 0:
            block[:equals] = hardshrink(block[:equals], below)
        block[equals:] = hardshrink(block[equals:], measured.threshold)
        return block if measured.scale == 1.0 else block.mul_(measured.scale)


def _place_of_equal(vector: Vector, magnitude: float, number: int) -> int:
    """The index of the `number`-th entry of this magnitude, in order."""
    import numpy as np

    from merging.methods.selection import magnitudes

    for start, block in vector:
        equal = magnitudes(block) == magnitude
        count = int(np.count_nonzero(equal))
        if count >= number:
            return start + int(np.flatnonzero(equal)[number - 1])
        number -= count
    raise AssertionError(f"{number} more entries of magnitude {magnitude} were counted than found")


def _float_below(value: float) -> float:
    """The largest float32 below a positive float32; -1 for zero, below which no magnitude lies."""
    import numpy as np

    return float(np.nextafter(np.float32(value), np.float32(0))) if value > 0 else -1.0

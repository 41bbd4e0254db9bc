"""Sparsifiers: what sets part of a task vector to zero before a method sees it.

A sparsifier measures each whole task vector once, then treats it block by block. Its keyword-only arguments
of `measure` are parameters, declared like a method's. Blocks are float32, and may be overwritten.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from merging.methods.parameters import Density, Parameter, parameters_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Cut", "Density", "KeepLargest", "Sparsifier", "TaskVector"]


class TaskVector(Protocol):
    """One model minus the base, readable as often as needed, a block at a time."""

    @property
    def size(self) -> int:
        """Number of elements."""

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Pairs of an offset and the float32 block that begins there, in order."""


class Sparsifier(ABC):
    """Measures a whole task vector, then sets part of each block to zero."""

    is_random = False

    @abstractmethod
    def measure(self, vector: TaskVector) -> Any:
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

    def measure(self, vector: TaskVector, *, density: Density = 1.0, rescale: bool = False) -> Cut:  # type: ignore[assignment]
        """Find the cut.

        Args:
            density: share of each task vector that is kept, the largest magnitudes first
            rescale: multiply what is kept so that the sum of magnitudes stays what it was
        """
        import numpy as np

        share: float = density  # type: ignore[assignment]
        if share >= 1:
            return Cut(-1.0, 0)
        if share <= 0:
            return Cut(math.inf, 0)
        magnitudes = np.empty(vector.size, dtype=np.float32)
        for start, block in vector:
            magnitudes[start : start + len(block)] = block.abs_().cpu().numpy()
        kept = max(1, int(share * vector.size))
        threshold = np.partition(magnitudes, vector.size - kept)[vector.size - kept]
        larger = magnitudes > threshold
        equals = np.flatnonzero(magnitudes == threshold)
        cut = Cut(float(threshold), int(equals[kept - np.count_nonzero(larger) - 1]))
        if not rescale:
            return cut
        larger[equals[equals <= cut.last]] = True
        before = float(magnitudes.sum(dtype=np.float64))
        after = float(magnitudes.sum(dtype=np.float64, where=larger))
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


def _float_below(value: float) -> float:
    """The largest float32 below a positive float32; -1 for zero, below which no magnitude lies."""
    import numpy as np

    return float(np.nextafter(np.float32(value), np.float32(0))) if value > 0 else -1.0

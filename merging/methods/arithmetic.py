"""Arithmetic that several methods share: sums of blocks, and weights that add up to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Below this a sum of weights counts as zero: dividing by it would only blow up rounding errors.
SMALLEST_SUM = 1e-8


def weighted_sum(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of the blocks, each times its weight; overwrites the first block.

    Every term is added in the order of the models, so that the result has the same bits however the tensor
    was cut into blocks.
    """
    total = blocks[0].mul_(weights[0])
    for block, weight in zip(blocks[1:], weights[1:], strict=True):
        total.add_(block, alpha=weight)
    return total


def shares(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum."""
    total = sum(weights)
    return [weight / total for weight in weights]


def weights_cancel(arguments: Mapping[str, Any]) -> str | None:
    """A sentence if the weights are to be divided by their sum and that sum is zero."""
    if arguments["normalize"] and abs(sum(arguments["weight"])) < SMALLEST_SUM:
        return f"the weights {arguments['weight']} add up to zero and cannot be normalized"
    return None

"""Arithmetic that several methods share: sums of blocks, and weights that add up to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Below this a sum of weights counts as zero: dividing by it would only blow up rounding errors.
SMALLEST_SUM = 1e-8
# The smallest float32 that is not subnormal; added to anything larger it changes nothing.
SMALLEST_NORMAL = 2.0**-126


def scaled(block: Tensor, factor: float) -> Tensor:
    """The block times a factor, in place."""
    return block if factor == 1 else block.mul_(factor)


def total(blocks: Sequence[Tensor]) -> Tensor:
    """The sum of the blocks in their order; overwrites the first."""
    for block in blocks[1:]:
        blocks[0].add_(block)
    return blocks[0]


def weighted_sum(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of the blocks, each times its weight; overwrites the first block.

    Every term is added in the order of the models, so that the result has the same bits however the tensor
    was cut into blocks.
    """
    first = scaled(blocks[0], weights[0])
    for block, weight in zip(blocks[1:], weights[1:], strict=True):
        first.add_(block, alpha=weight)
    return first


def shares(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum."""
    total = sum(weights)
    return [weight / total for weight in weights]


def weights_cancel(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """A phrase if the weights are to be divided by their sum and that sum is zero."""
    if arguments["normalize"] and abs(sum(arguments["weight"])) < SMALLEST_SUM:
        return {"phrase": "weights-cancel", "weights": list(arguments["weight"])}
    return None

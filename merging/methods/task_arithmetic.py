"""Sums of task vectors: what each fine-tune changed, added to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from merging.methods.arithmetic import SMALLEST_SUM, weighted_sum
from merging.methods.method import merge_method
from merging.methods.parameters import Scaling, Weight
from merging.methods.sparsify import KeepLargest

if TYPE_CHECKING:
    from torch import Tensor


def _nothing_added(arguments: Mapping[str, Any]) -> int | None:
    """The base as it stands (-1), when no task vector counts."""
    return -1 if arguments["lambda_"] == 0 or not any(arguments["weight"]) else None


@merge_method(
    title="Task Arithmetic",
    paper="https://arxiv.org/abs/2212.04089",
    ignored=("density", "rescale", "int8_mask"),
    decided_by=_nothing_added,
)
def task_arithmetic(
    task_vectors: Sequence[Tensor], *, weight: Weight, normalize: bool = False, lambda_: Scaling = 1.0
) -> Tensor:
    """Add the weighted sum of what each model changed to the base.

    Args:
        weight: how much each model's change counts; negative takes it away
        normalize: divide by the sum of the weights
        lambda_: factor on the whole sum; 0 gives the base back
    """
    total = sum(weight)
    divisor = total if normalize and abs(total) >= SMALLEST_SUM else 1.0
    return weighted_sum(task_vectors, [w * lambda_ / divisor for w in weight])


@merge_method(
    title="TIES",
    paper="https://arxiv.org/abs/2306.01708",
    sparsify=KeepLargest(),
    ignored=("int8_mask",),
    decided_by=_nothing_added,
)
def ties(
    task_vectors: Sequence[Tensor], *, weight: Weight, normalize: bool = True, lambda_: Scaling = 1.0
) -> Tensor:
    """Trim each change to its largest entries, elect one sign per entry, and combine those that agree.

    The election weighs every vote by size and weight, as mergekit does; the paper's does not use the weights.

    Args:
        weight: how much each model's change counts; a negative weight turns its vote around
        normalize: divide each entry by the sum of the weights that agreed on it
        lambda_: factor on the combined change
    """
    votes = [vector.mul_(w) for vector, w in zip(task_vectors, weight, strict=True)]
    elected = votes[0].clone()
    for vote in votes[1:]:
        elected.add_(vote)
    # Its sign is the elected one; a sum that cancels is plus zero, and elects plus.
    elected = elected.new_ones(()).copysign(elected)
    aligned = [vote.mul_(elected).clamp_(min=0) for vote in votes]  # entries of the other sign drop out
    agreed = weighted_sum([vote.sign() for vote in aligned], weight) if normalize else None
    combined = aligned[0]
    for vote in aligned[1:]:
        combined.add_(vote)
    if agreed is not None:
        combined.div_(agreed.add_(agreed.eq(0)))  # where nobody agreed there is nothing to divide
    return combined.mul_(elected).mul_(lambda_)

"""DARE: most of what a fine-tune changed can be dropped at random, if the rest is made larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merging.methods.arithmetic import scaled
from merging.methods.method import merge_method
from merging.methods.parameters import Scaling, Weight
from merging.methods.sparsify import KeepAtRandom
from merging.methods.task_arithmetic import Election, elected_sum, normalized_sum, nothing_added

if TYPE_CHECKING:
    from torch import Tensor

PAPER = "https://arxiv.org/abs/2311.03099"


@merge_method(
    title="DARE",
    paper=PAPER,
    sparsify=KeepAtRandom(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)
def dare_linear(
    task_vectors: Sequence[Tensor], *, weight: Weight, normalize: bool = False, lambda_: Scaling = 1.0
) -> Tensor:
    """Drop part of each change at random, enlarge the rest, and add the weighted sum to the base.

    Args:
        weight: how much each model's change counts; negative takes it away
        normalize: divide by the sum of the weights
        lambda_: factor on the whole sum; 0 gives the base back
    """
    return normalized_sum(task_vectors, weight, normalize, lambda_)


@merge_method(
    title="DARE-TIES",
    paper=PAPER,
    sparsify=KeepAtRandom(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)
def dare_ties(
    task_vectors: Sequence[Tensor],
    *,
    weight: Weight,
    normalize: bool = False,
    lambda_: Scaling = 1.0,
    election: Election = "weighted",
) -> Tensor:
    """Drop part of each change at random, enlarge the rest, elect one sign per entry, combine those that agree.

    Args:
        weight: how much each model's change counts; a negative weight turns its vote around
        normalize: divide each entry by the sum of the weights that agreed on it
        lambda_: factor on the combined change
        election: a vote is as large as the change, times the weight or, as in the paper of TIES, unweighted
    """
    return scaled(elected_sum(task_vectors, weight, normalize, election), lambda_)

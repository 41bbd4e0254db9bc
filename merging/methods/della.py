"""DELLA: drop changes at random, small ones more probably than large ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merging.methods.arithmetic import scaled
from merging.methods.method import merge_method
from merging.methods.parameters import Scaling, Weight
from merging.methods.sparsify import KeepByRank
from merging.methods.task_arithmetic import Election, elected_sum, normalized_sum, nothing_added

if TYPE_CHECKING:
    from torch import Tensor

PAPER = "https://arxiv.org/abs/2406.11617"


@merge_method(
    title="DELLA",
    paper=PAPER,
    sparsify=KeepByRank(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)
def della(
    task_vectors: Sequence[Tensor],
    *,
    weight: Weight,
    normalize: bool = True,
    lambda_: Scaling = 1.0,
    election: Election = "weighted",
) -> Tensor:
    """Drop part of each change, small entries of a row more probably, elect one sign per entry, combine the rest.

    Args:
        weight: how much each model's change counts; a negative weight turns its vote around
        normalize: divide each entry by the sum of the weights that agreed on it
        lambda_: factor on the combined change
        election: a vote is as large as the change, times the weight or, as in the paper of TIES, unweighted
    """
    return scaled(elected_sum(task_vectors, weight, normalize, election), lambda_)


@merge_method(
    title="DELLA without election",
    paper=PAPER,
    sparsify=KeepByRank(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)
def della_linear(
    task_vectors: Sequence[Tensor], *, weight: Weight, normalize: bool = False, lambda_: Scaling = 1.0
) -> Tensor:
    """Drop part of each change, small entries of a row more probably, and add the weighted sum to the base.

    Args:
        weight: how much each model's change counts; negative takes it away
        normalize: divide by the sum of the weights
        lambda_: factor on the whole sum; 0 gives the base back
    """
    return normalized_sum(task_vectors, weight, normalize, lambda_)

"""Model breadcrumbs: neither the largest changes, which are outliers, nor the smallest, which are noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merging.methods.arithmetic import scaled
from merging.methods.method import merge_method
from merging.methods.parameters import Scaling, Weight
from merging.methods.sparsify import KeepMiddle
from merging.methods.task_arithmetic import Election, elected_sum, normalized_sum, nothing_added

if TYPE_CHECKING:
    from torch import Tensor

PAPER = "https://arxiv.org/abs/2312.06795"


@merge_method(
    title="Breadcrumbs",
    paper=PAPER,
    sparsify=KeepMiddle(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)
def breadcrumbs(
    task_vectors: Sequence[Tensor], *, weight: Weight, normalize: bool = False, lambda_: Scaling = 1.0
) -> Tensor:
    """Drop the largest and the smallest entries of each change, and add the weighted sum of the rest to the base.

    Args:
        weight: how much each model's change counts; negative takes it away
        normalize: divide by the sum of the weights
        lambda_: factor on the whole sum; 0 gives the base back
    """
    return normalized_sum(task_vectors, weight, normalize, lambda_)


@merge_method(
    title="Breadcrumbs with TIES",
    paper=PAPER,
    sparsify=KeepMiddle(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)
def breadcrumbs_ties(
    task_vectors: Sequence[Tensor],
    *,
    weight: Weight,
    normalize: bool = False,
    lambda_: Scaling = 1.0,
    election: Election = "weighted",
) -> Tensor:
    """Drop the largest and smallest entries of each change, elect one sign per entry, combine those that agree.

    Args:
        weight: how much each model's change counts; a negative weight turns its vote around
        normalize: divide each entry by the sum of the weights that agreed on it
        lambda_: factor on the combined change
        election: a vote is as large as the change, times the weight or, as in the paper of TIES, unweighted
    """
    return scaled(elected_sum(task_vectors, weight, normalize, election), lambda_)

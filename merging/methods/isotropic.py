"""Isotropic merging: every direction that the models changed counts the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from merging.methods.arithmetic import scaled, total
from merging.methods.method import merge_method
from merging.methods.parameters import OnlyFor, Scaling
from merging.methods.singular import decompose
from merging.methods.tsv import mean_change, nothing_added

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    title="Iso-C",
    paper="https://arxiv.org/abs/2502.04959",
    formula="θ = θ₀ + λ s̄ U Vᵀ, with Σ δᵢ = U diag(s) Vᵀ and s̄ the mean of s",
    elsewhere=mean_change,
    decided_by=nothing_added,
    in_mergekit=False,
)
def iso_c(
    task_vector_matrices: Sequence[Tensor],
    *,
    lambda_: Scaling = 1.0,
    embeddings: Annotated[bool, OnlyFor(("embedding",))] = False,
) -> Tensor:
    """Add up the task matrices and make all their singular values equal, so that no task dominates another.

    The singular values of the sum become their mean. In the paper's comparison (up to 20 vision tasks) it is ahead of
    task arithmetic, TIES, Consensus TA and TSV-Merge. Directions that no model changed stay unchanged, where the
    paper's decomposition fills them at random.

    Args:
        lambda_: factor on the combined task vector
        embeddings: treat embeddings and output head the same way; otherwise they are averaged, as vectors are
    """
    change = total(task_vector_matrices)
    left, values, right = decompose(change)
    return scaled(left @ right.T, lambda_ * values.sum().item() / min(change.shape))

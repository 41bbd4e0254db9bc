"""Task singular vectors: the strongest directions of every model's change, made independent of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from merging.methods.arithmetic import scaled, total
from merging.methods.method import merge_method
from merging.methods.parameters import OnlyFor, Scaling
from merging.methods.singular import decompose, gram, inverse_root

if TYPE_CHECKING:
    from torch import Tensor


def nothing_added(arguments: Mapping[str, Any]) -> int | None:
    """The base as it stands (-1), when the change is multiplied by 0."""
    return -1 if arguments["lambda_"] == 0 else None


def mean_change(task_vectors: Sequence[Tensor], *, lambda_: float, **_: Any) -> Tensor:
    """What the papers do with vectors: the mean of the changes."""
    return scaled(total(task_vectors), lambda_ / len(task_vectors))


@merge_method(
    title="TSV-Merge",
    paper="https://arxiv.org/abs/2412.00081",
    formula=(
        "θ = θ₀ + λ U(UᵀU)^-½ S (VᵀV)^-½ Vᵀ, with U, S, V the first K-th of each δᵢ = Uᵢ Sᵢ Vᵢᵀ, side by side"
    ),
    elsewhere=mean_change,
    decided_by=nothing_added,
    in_mergekit=False,
)
def tsv_merge(
    task_vector_matrices: Sequence[Tensor],
    *,
    lambda_: Scaling = 1.0,
    embeddings: Annotated[bool, OnlyFor(("embedding",))] = False,
) -> Tensor:
    """Keep the top singular directions of each model's task matrices, an equal share each, and orthogonalize them.

    Of K models each gives the first 1/K of its singular vectors; all together are replaced by the nearest vectors
    that are orthogonal, U (U'U)^(-1/2). In the paper's comparison (8 to 20 vision tasks) it is ahead of task
    arithmetic, TIES and Consensus TA by wide margins, and needs no scaling (lambda 1).

    Args:
        lambda_: factor on the combined task vector
        embeddings: treat embeddings and output head the same way; otherwise they are averaged, as vectors are
    """
    import torch

    share = max(min(task_vector_matrices[0].shape) // len(task_vector_matrices), 1)
    parts = [[part[..., :share].clone() for part in decompose(matrix)] for matrix in task_vector_matrices]
    left, values, right = (torch.cat(several, dim=-1) for several in zip(*parts, strict=True))
    if not len(values):
        return torch.zeros_like(task_vector_matrices[0])
    between = (inverse_root(gram(left)) * values) @ inverse_root(gram(right))
    return scaled((left @ between.float()) @ right.T, lambda_)

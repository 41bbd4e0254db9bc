"""WUDI: the change that disturbs each model least, judged by what that model itself changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from merging.methods.arithmetic import scaled
from merging.methods.method import merge_method
from merging.methods.parameters import OnlyFor, Scaling
from merging.methods.singular import SMALLEST_SHARE, decompose, gram, matrix_shape
from merging.methods.tsv import mean_change, nothing_added

if TYPE_CHECKING:
    from torch import Tensor


def _held(shape: Sequence[int], count: int) -> int:
    """Bytes that merging `count` task vectors of a tensor takes: these, as many side by side and in their basis, the
    result, and a few square matrices in float64."""
    matrix = matrix_shape(shape)
    if matrix is None:
        return 0
    rows, columns = matrix
    return 4 * math.prod(matrix) * (3 * count + 3) + 8 * 8 * min(count * rows, columns) ** 2


@merge_method(
    title="WUDI",
    paper="https://arxiv.org/abs/2503.08099",
    formula="θ = θ₀ + λ δ, with Σ ‖(δ − δᵢ) δᵢᵀ‖² / ‖δᵢ‖² least at δ",
    elsewhere=mean_change,
    matrices_held=_held,
    decided_by=nothing_added,
    in_mergekit=False,
)
def wudi(
    task_vector_matrices: Sequence[Tensor],
    *,
    lambda_: Scaling = 1.0,
    embeddings: Annotated[bool, OnlyFor(("embedding",))] = False,
) -> Tensor:
    """Find the change that disturbs each model least where its own rows of changes point, without any data.

    The rows of a model's task matrix span what its inputs look like. The paper descends 300 steps of Adam from the sum
    of the task matrices; the loss is quadratic, and this is its minimum.

    Args:
        lambda_: factor on the change
        embeddings: treat embeddings and output head the same way; otherwise they are averaged, as vectors are
    """
    import torch

    counting = [matrix for matrix in task_vector_matrices if matrix.count_nonzero()]
    if not counting:
        return torch.zeros_like(task_vector_matrices[0])
    # Divided by their norms, so that all models count the same.
    units = [matrix / matrix.norm() for matrix in counting]
    basis = None
    if sum(map(len, units)) < units[0].shape[1]:
        basis = decompose(torch.cat(units))[2]
        units = [unit @ basis for unit in units]
    squares, vectors = torch.linalg.eigh(sum(map(gram, units)))
    kept = squares > SMALLEST_SHARE**2 * squares[-1]
    inverse = (vectors[:, kept] / squares[kept]) @ vectors[:, kept].T
    change = torch.zeros_like(units[0])
    for matrix, unit in zip(counting, units, strict=True):
        change.addmm_(unit, (gram(unit) @ inverse).float(), alpha=matrix.norm().item())
    return scaled(change if basis is None else change @ basis.T, lambda_)

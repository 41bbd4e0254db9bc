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
# Singular values of a larger matrix are estimated (randomised SVD); the others are exact.
_EXACT_SIDE = 1024
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
        effective_rank: exp of the entropy of the singular values, each divided by their sum (Roy and Vetterli 2007);
            None for a matrix whose values are only estimated.
        energy: share of the squared singular values in the 64 leading directions.
        energy_missed: share of them that a randomised SVD did not find: `energy` may be too low by up to this much;
            0 for an exact one.
    """

    effective_rank: float | None
    energy: float
    energy_missed: float


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
        return Spectrum(0.0, 0.0, 0.0)
    if min(matrix.shape) <= _EXACT_SIDE:
        values = _singular_values(matrix)
        kept = values[values > _noise(matrix, values)]
        shares = kept / kept.sum()
        rank = float(torch.exp(-(shares * shares.log()).sum()))
        return Spectrum(rank, float(values[:DIRECTIONS].square().sum() / values.square().sum()), 0.0)
    values = _leading(matrix, DIRECTIONS + 16)[1].double()
    leading = float(values[:DIRECTIONS].square().sum()) / total
    return Spectrum(None, leading, max(0.0, 1 - float(values.square().sum()) / total))


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

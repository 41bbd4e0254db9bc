"""Vectors as sums of few others: orthogonal matching pursuit (OMP), and nearest neighbours.

The others are called atoms. Both rules first shortlist the atoms of each vector by the cosine, in one pass over all of
them; OMP then needs the products of the shortlisted atoms only. The sizes of the parts are constants, so that the
result does not depend on who computes which part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

# Vectors that are compared with all atoms at once, and atoms of one matrix product.
VECTORS, ATOMS = 256, 8192
# Atoms that OMP chooses from, for each atom that it takes, and at least.
LISTED, FEWEST_LISTED = 4, 256
# Elements of the shortlisted atoms, or of their products, that are held at a time.
GATHERED = 4 * 1024 * 1024
# An atom of whose squared length the chosen ones leave no more than this is a combination of them.
SAME = 1e-6
# A vector of whose length no atom explains more than this is done.
DONE = 1e-7

# Rows of a table by number, as float32: (n,) -> (n, d).
Gather = Callable[["Tensor"], "Tensor"]


class Combinations(NamedTuple):
    """For each vector, atoms and their factors.

    Args:
        atoms: their numbers (n, k), int32; -1 where fewer than k are needed
        factors: float32 (n, k)
    """

    atoms: Tensor
    factors: Tensor


def listed(k: int, atoms: int) -> int:
    """How many atoms OMP chooses k from."""
    return min(max(LISTED * k, FEWEST_LISTED), atoms)


def pursuit_held(width: int, k: int, atoms: int) -> int:
    """Bytes that a thread holds while it combines atoms of a width, beside the tables."""
    size = listed(k, atoms)
    together = _together(width, size)
    shortlisting = 4 * (2 * VECTORS * width + 2 * ATOMS * width + 4 * VECTORS * (ATOMS + size))
    pursuing = 8 * together * (size * width + 2 * size * size + 2 * k * (size + k))
    return max(shortlisting, pursuing)


def pursuit_operations(vectors: int, width: int, k: int, atoms: int) -> float:
    """Multiplications that combining atoms takes, roughly. Those in float64 wait for memory, and count for eight."""
    size = listed(k, atoms)
    return vectors * (width * (atoms + size * size) + 8 * size * k * k)


def omp(vectors: Tensor, gather: Gather, count: int, k: int) -> Combinations:
    """Write vectors as sums of k atoms, chosen one by one: the next is the one that has the largest share, at unit
    length, in what the chosen ones leave; then all factors are fitted again.

    Args:
        vectors: (n, d), float32
        gather: gives atoms by number
        count: of the atoms
        k: atoms of a vector; with fewer atoms, all of them
    """
    import torch

    k = min(k, count)
    size = listed(k, count)
    found = _shortlist(vectors, gather, count, size, signed=False)
    atoms, factors = [], []
    step = _together(vectors.shape[1], size)
    for start in range(0, len(vectors), step):
        names = found[start : start + step]
        near = gather(names.flatten()).view(*names.shape, -1)
        lengths = near.norm(dim=2, keepdim=True).clamp_min(torch.finfo(near.dtype).tiny)
        chosen, own = _pursue(vectors[start : start + step], near / lengths, k)
        places = chosen.clamp_min(0)
        own /= lengths.squeeze(2).gather(1, places)
        atoms.append(torch.where(chosen < 0, -1, names.gather(1, places)))
        factors.append(own)
    return Combinations(torch.cat(atoms).int(), torch.cat(factors).float())


def nearest(vectors: Tensor, gather: Gather, count: int, k: int) -> Combinations:
    """Write vectors as averages of the k atoms with the largest cosine, weighted by it; opposite ones do not count.

    Args:
        vectors, gather, count: see `omp`
        k: atoms of a vector; with fewer atoms, all of them
    """
    import torch

    found = _shortlist(vectors, gather, count, min(k, count), signed=True)
    factors = []
    step = _together(vectors.shape[1], found.shape[1])
    for start in range(0, len(vectors), step):
        names = found[start : start + step]
        near = _unit(gather(names.flatten())).view(*names.shape, -1)
        own = (near * _unit(vectors[start : start + step])[:, None]).sum(2).double().clamp_min(0)
        total = own.sum(1, keepdim=True)
        factors.append(torch.where(total > 0, own / total.clamp_min(SAME), 1 / names.shape[1]))
    return Combinations(found.int(), torch.cat(factors).float())


def _together(width: int, size: int) -> int:
    """Vectors whose shortlisted atoms, and the products of these, are held at a time."""
    return max(GATHERED // (size * max(width, size)), 1)


def _unit(rows: Tensor) -> Tensor:
    import torch

    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return unit


def _shortlist(vectors: Tensor, gather: Gather, count: int, size: int, *, signed: bool) -> Tensor:
    """The atoms whose directions are nearest to each vector, or to its opposite unless signed: (n, size) numbers."""
    import torch

    directions = _unit(vectors)
    best = directions.new_empty((len(vectors), 0))
    names = torch.empty((len(vectors), 0), dtype=torch.int64, device=vectors.device)
    for start in range(0, count, ATOMS):
        numbers = torch.arange(start, min(start + ATOMS, count), device=vectors.device)
        cosines = directions @ _unit(gather(numbers)).T
        before = best.shape[1]
        scores = torch.cat([best, cosines if signed else cosines.abs()], 1)
        best, at = scores.topk(min(size, scores.shape[1]), dim=1)
        new = start + at - before
        names = torch.where(at < before, names.gather(1, at.clamp_max(before - 1)), new) if before else new
    return names


def _pursue(vectors: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """OMP over unit atoms of each vector's own, from their products alone: a Cholesky decomposition of the products
    of the chosen ones, grown by a row at each step.

    Args:
        vectors: (n, d)
        atoms: (n, s, d), of length 1

    Returns:
        The places of the chosen atoms (n, k), int64, -1 for none; and their factors, float64 (n, k).
    """
    import torch

    n, s, _ = atoms.shape
    products = torch.bmm(atoms, atoms.mT).double()
    shares = torch.bmm(atoms, vectors[:, :, None]).squeeze(2).double()  # of the atoms in what is left
    lengths = vectors.double().norm(dim=1)
    left = products.diagonal(dim1=1, dim2=2).clone()  # of the atoms' squared lengths, beside the chosen ones
    every = torch.arange(n, device=vectors.device)
    chosen = torch.full((n, k), -1, dtype=torch.int64, device=vectors.device)
    basis = products.new_zeros((n, k, s))  # products of the atoms with the chosen ones, made orthonormal
    inverse = products.new_zeros((n, k, k))  # of the Cholesky factor
    along = products.new_zeros((n, k))  # products of the vectors with the orthonormal ones
    for step in range(k):
        largest, at = torch.where(left > SAME, shares.abs(), -1.0).max(1)
        more = largest > DONE * lengths
        if not more.any():
            break
        known = basis[:, :step]
        own = known[every, :, at]
        height = left[every, at].clamp_min(SAME).sqrt()
        new = (products[every, at] - torch.bmm(own[:, None], known).squeeze(1)) / height[:, None]
        new = torch.where(more[:, None], new, 0.0)
        along[:, step] = torch.where(more, shares[every, at] / height, 0.0)
        row = torch.bmm(own[:, None], inverse[:, :step, :step]).squeeze(1) / -height[:, None]
        inverse[:, step, :step] = torch.where(more[:, None], row, 0.0)
        inverse[:, step, step] = torch.where(more, 1 / height, 0.0)
        chosen[:, step] = torch.where(more, at, -1)
        basis[:, step] = new
        shares -= along[:, step, None] * new
        left -= new.square()
    return chosen, torch.bmm(along[:, None], inverse).squeeze(1)

"""What LoHa and LoKr add to a tensor, row by row, from the small factors that they store.

The formulas are PEFT's, and tests compare the two; PEFT's own code makes whole matrices, inside layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """A matrix as an adapter stores it: whole, as a product, or as a kernel with a product on either side.

    Args:
        names: of the adapter's tensors: the matrix of shape (out, in); or two of shapes (out, r) and (r, in); or a
            kernel of shape (r, r, height, width) and two of shapes (r, out) and (r, in)
        shape: of the whole, all axes but the first as one
    """

    names: tuple[str, ...]
    shape: tuple[int, int]

    def rows(self, held: Mapping[str, Tensor], which: slice | Tensor) -> Tensor:
        import torch

        parts = [held[name] for name in self.names]
        if len(parts) == 3:
            return torch.einsum("ijkl,ip,jr->prkl", parts[0], parts[1][:, which], parts[2]).flatten(1)
        rows = parts[0][which].flatten(1)
        return rows @ parts[1] if len(parts) == 2 else rows


@dataclass(frozen=True)
class Product:
    """LoHa (https://arxiv.org/abs/2108.06098), two matrices multiplied number by number, or LoKr
    (https://arxiv.org/abs/2309.14859), their Kronecker product.
    """

    one: Matrix
    other: Matrix
    is_kronecker: bool
    scaling: float

    @property
    def names(self) -> tuple[str, ...]:
        return self.one.names + self.other.names

    @property
    def shape(self) -> tuple[int, int]:
        if not self.is_kronecker:
            return self.one.shape
        return self.one.shape[0] * self.other.shape[0], self.one.shape[1] * self.other.shape[1]

    def rows(self, held: Mapping[str, Tensor], first: int, end: int) -> Tensor:
        """Rows of the product, of shape (end - first, width)."""
        if not self.is_kronecker:
            which = slice(first, end)
            return self.one.rows(held, which).mul_(self.other.rows(held, which)).mul_(self.scaling)
        import torch

        place, height = torch.arange(first, end), self.other.shape[0]
        outer, inner = self.one.rows(held, place // height), self.other.rows(held, place % height)
        return (outer[:, :, None] * inner[:, None, :]).flatten(1).mul_(self.scaling)


def read_product(parts: Mapping[str, str], shapes: Mapping[str, Shape], scaling: float) -> Product | None:
    """The product of the parts of a module: None if they do not belong together.

    Args:
        parts: names of the adapter's tensors by what they are: hada_w1_a, lokr_w2, ...
        shapes: of the adapter's tensors
    """
    is_kronecker = any(part.startswith("lokr") for part in parts)
    kind, kernels = ("lokr", ("", "lokr_t2")) if is_kronecker else ("hada", ("hada_t1", "hada_t2"))
    found, used = [], 0
    for number, kernel in zip((1, 2), kernels, strict=True):
        wanted = (kernel, f"{kind}_w{number}", f"{kind}_w{number}_a", f"{kind}_w{number}_b")
        names = [parts[part] for part in wanted if part in parts]
        used += len(names)
        shape = _shape([shapes[name] for name in names])
        if shape is None:
            return None
        found.append(Matrix(tuple(names), shape))
    product = Product(found[0], found[1], is_kronecker, scaling)
    fits = used == len(parts) and (is_kronecker or found[0].shape == found[1].shape)
    return product if fits else None


def _shape(parts: Sequence[Shape]) -> tuple[int, int] | None:
    """Of the matrix that parts of these shapes make."""
    match parts:
        case [(height, *rest)] if rest:
            return height, math.prod(rest)
        case [(height, inner), (rank, width)] if inner == rank:
            return height, width
        case [(one, other, *kernel), (rank, height), (second, width)] if (one, other) == (rank, second):
            return height, width * math.prod(kernel)
    return None

"""What an adapter changes in one tensor, as data: names of the adapter's tensors, and how they are applied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from checkpoints.adapters.products import Product

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A low-rank sum: for each of `experts` the product of two factors.

    Args:
        a, b: names of the adapter's tensors, of shapes (experts * rank, in) and (out, rank * experts); without `a`,
            `b` is a vector (out,) that is added as it is
        scaling: factor on the product
        transposed: whether the tensor is stored as (in, out)
        experts: how many a packed parameter holds
        expert: the number of the one expert that the tensor belongs to, where experts are stored one by one
        part: first and last output (the last not included), where the tensor has only some of them
    """

    a: str
    b: str
    scaling: float
    transposed: bool = False
    experts: int = 1
    expert: int | None = None
    part: tuple[int, int] | None = None

    def left(self, held: Mapping[str, Tensor]) -> Tensor:
        """(experts, rows of the tensor, rank)"""
        return self._factors(held)[0]

    def right(self, held: Mapping[str, Tensor]) -> Tensor:
        """(experts, rank, columns of the tensor)"""
        return self._factors(held)[1]

    def _factors(self, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        b = held[self.b]
        if not self.a:
            return b.view(1, -1, 1), b.new_ones(1, 1, 1)
        a = held[self.a]
        rank = a.shape[0] // self.experts
        a = a.view(self.experts, rank, -1)
        b = b.view(b.shape[0], rank, self.experts).permute(2, 0, 1)
        if self.expert is not None:
            a, b = a[self.expert : self.expert + 1], b[self.expert : self.expert + 1]
        if self.part:
            b = b[:, self.part[0] : self.part[1]]
        return (a.transpose(1, 2), b.transpose(1, 2)) if self.transposed else (b, a)


@dataclass(frozen=True)
class Change:
    """What an adapter does to a tensor, seen as a matrix (height, width).

    All axes but the first are flattened into the second; of packed experts, all but the last into the first.

    Args:
        shape: of the result
        base: the base's tensor that is changed; None where the adapter brings it whole
        base_height: its number of rows
        group: number of rows of a factor's product: those of one expert, or all
        saved: the adapter's tensor that replaces it
        rows, indices: the adapter's tensor (len(indices), width), whose rows replace those with these numbers
        low_rank: sums that are added
        products: what LoHa and LoKr add
        factor, factor_by_column: the adapter's tensor that IA3 multiplies the rows with, or the columns
        magnitude, by_column: DoRA's norms of the rows (height,), or of the columns (width,)
    """

    shape: tuple[int, ...]
    base: str | None = None
    base_height: int = 0
    group: int = 0
    saved: str = ""
    rows: str = ""
    indices: tuple[int, ...] = ()
    low_rank: tuple[Term, ...] = ()
    products: tuple[Product, ...] = ()
    factor: str = ""
    factor_by_column: bool = False
    magnitude: str = ""
    by_column: bool = False

    @property
    def width(self) -> int:
        return self.shape[-1] if self._is_packed else math.prod(self.shape[1:])

    @property
    def height(self) -> int:
        return math.prod(self.shape[:-1]) if self._is_packed else self.shape[0]

    @property
    def _is_packed(self) -> bool:
        return any(term.experts > 1 and term.expert is None for term in self.low_rank)

    @property
    def is_plain(self) -> bool:
        """Whether it only adds products of two factors, each of the whole matrix."""
        other = self.saved or self.rows or self.magnitude or self.products or self.factor or self._is_packed
        return not other and all(term.a for term in self.low_rank)

    @property
    def held(self) -> tuple[str, ...]:
        """The adapter's tensors that every row needs; what takes the tensor's place is read by rows."""
        names = [name for term in self.low_rank for name in (term.a, term.b)]
        names += [name for product in self.products for name in product.names]
        names += [self.rows, self.factor, self.magnitude]
        return tuple(dict.fromkeys(name for name in names if name))

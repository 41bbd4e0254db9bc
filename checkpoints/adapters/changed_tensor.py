"""A tensor under an adapter: the arithmetic, all of it in float32.

A tensor is computed in tiles of whole rows that depend on its shape alone. So the bits of a row do not depend on how
much is read at once: the same product in another shape may be summed in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from checkpoints.adapters.adapter import Adapter
from checkpoints.dtypes import itemsize, torch_name

if TYPE_CHECKING:
    from torch import Tensor

    from checkpoints.adapters.change import Change

# Elements of a tile: enough for a fast product, few enough for the processor's cache.
TILE = 64 * 1024
# Elements that a pass over a whole tensor reads at once.
PASS = 4 * 1024 * 1024

# Fills a buffer with bytes of the base's tensor, from an offset on.
ReadBase = Callable[[int, memoryview], None]


def as_stored(data: bytearray, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """The numbers in these bytes.

    Args:
        dtype: by safetensors' name
    """
    kind = getattr(torch, torch_name(dtype))
    return (torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)).view(shape)


class ChangedTensor:
    """A tensor under an adapter, seen as rows (height, width): what all rows need is held, the rest is read.

    Args:
        change: what the adapter changes
        adapter: whose tensors it names
        base_dtype: of the base's tensor, by safetensors' name
        read_base: reads that tensor
    """

    def __init__(self, change: Change, adapter: Adapter, base_dtype: str, read_base: ReadBase):
        self.change = change
        self.adapter = adapter
        self.base_dtype = base_dtype
        self.read_base = read_base
        self.width = change.width
        self.lines = max(1, TILE // self.width)  # rows of a tile
        held = self._load()
        self.low_rank = [
            (term.left(held).contiguous(), term.right(held).contiguous(), term.scaling)
            for term in change.low_rank
        ]
        self.held = held if change.products else {}
        self.factor = held[change.factor].view(-1) if change.factor else None
        self.magnitude = held[change.magnitude].flatten() if change.magnitude else None
        self.values: Tensor | None = None
        if change.rows:
            self.values = held[change.rows].view(-1, self.width)
            self.at = torch.tensor(change.indices, dtype=torch.int64)
        self.by_column: Tensor | None = None
        self.nbytes = sum(tensor.nbytes for tensor in held.values())

    def _load(self) -> Mapping[str, Tensor]:
        headers = self.adapter.tensors
        found = self.adapter.read(self.change.held)
        return {
            name: as_stored(data, headers[name].dtype, headers[name].shape).float()
            for name, data in found.items()
        }

    def measure(self) -> None:
        """Compute what depends on the whole tensor: the norms of its columns, where DoRA scales these."""
        if self.magnitude is None or not self.change.by_column or self.by_column is not None:
            return
        squares = torch.zeros(self.width, dtype=torch.float64)
        step = max(1, PASS // self.width // self.lines) * self.lines
        for first in range(0, self.change.height, step):
            for _, tile in self._tiles(first, min(first + step, self.change.height)):
                squares += tile.double().square_().sum(0)
        self.by_column = self.magnitude / squares.sqrt_().float()

    def fill(self, first: int, out: Tensor) -> None:
        """Compute elements.

        Args:
            first: index of the first element, row by row
            out: float32 vector (n,) for the elements from there on
        """
        end = first + len(out)
        top, bottom = first // self.width, -(-end // self.width)
        for row, tile in self._tiles(top - top % self.change.group % self.lines, bottom):
            begin = row * self.width
            flat = self._finish(row, tile).view(-1)
            low, high = max(first, begin), min(end, begin + len(flat))
            if low < high:
                out[low - first : high - first] = flat[low - begin : high - begin]

    def _tiles(self, first: int, end: int) -> Iterator[tuple[int, Tensor]]:
        """Tiles (rows, width), each with the number of its first row; DoRA and the adapter's scale are still missing.

        `first` is the beginning of a tile; the last tile is whole, and may go beyond `end`.
        """
        change = self.change
        places = []
        row = first
        while row < end:
            group_end = min(row - row % change.group + change.group, change.height)
            places.append((row, min(row + self.lines, group_end)))
            row = places[-1][1]
        stored = self._stored(first, row)
        for begin, stop in places:
            tile = stored[begin - first : stop - first].to(torch.float32, copy=True)
            group, inside = divmod(begin, change.group)
            if self.values is not None:
                chosen = ((self.at >= begin) & (self.at < stop)).nonzero().flatten()
                tile[self.at[chosen] - begin] = self.values[chosen]
            for left, right, scaling in self.low_rank:
                factor = scaling if self._is_whole else scaling * self.adapter.scale
                tile += (left[group, inside : inside + len(tile)] @ right[group]).mul_(factor)
            for product in change.products:
                factor = 1 if self._is_whole else self.adapter.scale
                tile.add_(product.rows(self.held, begin, begin + len(tile)), alpha=factor)
            if self.factor is not None:
                tile *= self.factor if change.factor_by_column else self.factor[begin:stop, None]
            yield begin, tile

    def _finish(self, row: int, tile: Tensor) -> Tensor:
        if self.magnitude is not None:
            if self.change.by_column:
                assert self.by_column is not None
                tile *= self.by_column
            else:
                norms = torch.linalg.norm(tile, dim=1)
                tile *= (self.magnitude[row : row + len(tile)] / norms)[:, None]
        if not self._is_whole or self.adapter.scale == 1 or self.change.base is None:
            return tile
        # Rows that the base does not have come whole.
        known = min(max(self.change.base_height - row, 0), len(tile))
        before = self._base(row, row + known)
        tile[:known] = before + (tile[:known] - before) * self.adapter.scale
        return tile

    @property
    def _is_whole(self) -> bool:
        """Whether the change is more than a sum, so that its scale interpolates between before and after."""
        change = self.change
        return bool(change.saved or change.rows or change.factor or change.magnitude)

    def _stored(self, first: int, end: int) -> Tensor:
        """The rows (end - first, width) before sums, factors and norms."""
        if not self.change.saved:
            return self._base(first, end)
        dtype = self.adapter.tensors[self.change.saved].dtype
        size = self.width * itemsize(dtype)
        data = self.adapter.read_part(self.change.saved, first * size, (end - first) * size)
        return as_stored(data, dtype, (end - first, self.width))

    def _base(self, first: int, end: int) -> Tensor:
        """Rows (end - first, width) of the base's tensor, as they are stored; rows that it does not have are zeros."""
        known = max(min(end, self.change.base_height) - first, 0)
        size = self.width * itemsize(self.base_dtype)
        data = bytearray((end - first) * size)
        if known:
            self.read_base(first * size, memoryview(data)[: known * size])
        return as_stored(data, self.base_dtype, (end - first, self.width))

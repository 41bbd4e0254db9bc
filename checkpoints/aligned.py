"""A checkpoint with the rows of another vocabulary: its own, other models', averages, zeros, or approximations.

Rows are gathered when they are read; nothing is stored on the way.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

from checkpoints.approximation import Approximation, Guided
from checkpoints.checkpoint import Checkpoint
from checkpoints.dtypes import itemsize, promote, torch_name
from checkpoints.formats.header import TensorHeader
from checkpoints.made_rows import MadeCost, MadeRows, TensorPlace
from checkpoints.view import View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Bytes of a tensor that are read at a time to average its rows.
PART = 16 * 1024 * 1024


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of the result.

    Args:
        count: how many
        sources: pairs of a model's number and its first row; several are averaged, none means zeros. The number
            -1 - i is that of approximation i
    """

    count: int
    sources: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Alignment:
    """What becomes of a model's tensors that have one row per token.

    Args:
        rows: of the result, in order
        padding: number of rows after them, each the average of all others
        tensors: by the model's own name of such a tensor, its name in every model, this one too; empty where a model
            has none
        approximations: of rows that no model gives
    """

    rows: tuple[Rows, ...]
    padding: int
    tensors: Mapping[str, tuple[str, ...]]
    approximations: tuple[Approximation, ...] = ()

    @property
    def size(self) -> int:
        return sum(run.count for run in self.rows) + self.padding


class AlignedCheckpoint(View):
    """A checkpoint with its rows in another order.

    Args:
        own: the checkpoint itself
        alignment: what its rows become
        models: all models, by their numbers in the alignment; they are not closed with this one
    """

    def __init__(self, own: Checkpoint, alignment: Alignment, models: Sequence[Checkpoint]):
        super().__init__(own)
        self.alignment = alignment
        self.models = models
        self.made = {name: self._made(name) for name in alignment.tensors if alignment.approximations}
        self.tensors = {
            **own.tensors,
            **{name: self._aligned(name) for name in alignment.tensors},
        }
        self._ends = list(accumulate(run.count for run in alignment.rows))
        self._averages: dict[str, NDArray[np.float32]] = {}
        self._averaging = threading.Lock()

    @property
    def is_remote(self) -> bool:
        return any(model.is_remote for model in self._parts())

    @property
    def read_by(self) -> Set[str]:
        return {way for model in self._parts() for way in model.read_by}

    def bytes_to_read(self, tensor: str) -> int:
        if tensor not in self.alignment.tensors:
            return self.own.bytes_to_read(tensor)
        made = self.made.get(tensor)
        return self.tensors[tensor].nbytes + (made.nbytes if made else 0)

    @property
    def approximating(self) -> MadeCost | None:
        """What it takes to approximate rows; None where none is."""
        costs = [made.cost for made in self.made.values()]
        return reduce(MadeCost.with_another, costs) if costs else None

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        if tensor not in self.alignment.tensors:
            self.own.read_into(tensor, start, buffer)
            return
        header = self.tensors[tensor]
        width = header.nbytes // header.shape[0]  # bytes of a row
        done = 0
        while done < len(buffer):
            row, offset = divmod(start + done, width)
            number = bisect_right(self._ends, row)
            if number == len(self._ends):
                self._pad(tensor, offset, buffer[done:])
                return
            size = min((self._ends[number] - row) * width - offset, len(buffer) - done)
            run = self.alignment.rows[number]
            inside = row - (self._ends[number] - run.count)
            self._fill(tensor, run, inside * width + offset, buffer[done : done + size])
            done += size

    def _fill(self, name: str, run: Rows, start: int, out: memoryview) -> None:
        """The bytes of a run of rows from an offset inside it on."""
        header = self.tensors[name]
        width = header.nbytes // header.shape[0]
        if not run.sources:
            out[:] = bytes(len(out))
            return
        if run.sources[0][0] < 0:
            [(number, row)] = run.sources
            self.made[name].fill(-1 - number, row, start, out)
            return
        parts = [(self.models[model], self.alignment.tensors[name][model], row) for model, row in run.sources]
        if len(parts) == 1 and parts[0][0].tensors[parts[0][1]].dtype == header.dtype:
            [(model, tensor, row)] = parts
            model.read_into(tensor, row * width + start, out)
            return
        import numpy as np

        total = np.zeros(len(out) // 4)
        for model, tensor, row in parts:
            first = (row * width + start) // 4
            total += _elements(model, tensor, first, len(total))
        np.frombuffer(out, np.float32)[:] = total / len(parts)

    def _pad(self, name: str, offset: int, out: memoryview) -> None:
        """Rows of averages, from an offset inside the first of them on."""
        import numpy as np

        row = self._average(name).view(np.uint8)
        turns = -(-(offset + len(out)) // len(row))
        out[:] = np.tile(row, turns)[offset : offset + len(out)].data

    def _average(self, name: str) -> NDArray[np.float32]:
        import numpy as np

        with self._averaging:
            if name not in self._averages:
                header = self.tensors[name]
                width = header.nbytes // header.shape[0]
                rows = header.shape[0] - self.alignment.padding
                total = np.zeros(width // 4)
                step = max(PART // width, 1)
                for first in range(0, rows, step):
                    part = bytearray(min(step, rows - first) * width)
                    self.read_into(name, first * width, memoryview(part))
                    total += np.frombuffer(part, np.float32).reshape(-1, width // 4).sum(0, np.float64)
                self._averages[name] = (total / rows).astype(np.float32)
            return self._averages[name]

    def _aligned(self, name: str) -> TensorHeader:
        """Of the stored type where every row is a copy of one of that type, else computed in float32."""
        names = self.alignment.tensors[name]
        header = self.own.tensors[names[self.models.index(self.own)]]
        shape = (self.alignment.size, *header.shape[1:])
        used = {header.dtype}
        stored = {header.stored_dtype}
        for number in self._givers():
            if names[number]:
                used.add(self.models[number].tensors[names[number]].dtype)
                stored.add(self.models[number].tensors[names[number]].stored_dtype)
        copies = len(used) == 1 and not self.alignment.padding
        if copies and not self.made and all(len(run.sources) < 2 for run in self.alignment.rows):
            size = prod(shape) * itemsize(header.dtype)
            return replace(header, name=name, shape=shape, file="", start=0, nbytes=size)
        return TensorHeader(name, "F32", shape, "", 0, 4 * prod(shape), promote(stored))

    def _made(self, name: str) -> MadeRows:
        names = self.alignment.tensors[name]
        own = TensorPlace(self.own, names[self.models.index(self.own)])
        guides = {
            number: TensorPlace(self.models[number], names[number])
            for number in self._guides()
            if names[number]
        }
        return MadeRows(own, self.alignment.approximations, guides)

    def _parts(self) -> Iterator[Checkpoint]:
        """The checkpoint itself, the models that give rows, and those that others are approximated by."""
        yield self.own
        yield from (self.models[number] for number in (*self._givers(), *self._guides()))

    def _givers(self) -> Iterator[int]:
        """The numbers of the models that give rows."""
        found = dict.fromkeys(model for run in self.alignment.rows for model, _ in run.sources)
        yield from (model for model in found if model >= 0)

    def _guides(self) -> Iterator[int]:
        yield from dict.fromkeys(
            each.guide for each in self.alignment.approximations if isinstance(each, Guided)
        )


def _elements(model: Checkpoint, tensor: str, first: int, count: int) -> NDArray[np.float32]:
    """Elements of a tensor as float32."""
    import torch

    dtype = model.tensors[tensor].dtype
    raw = bytearray(count * itemsize(dtype))
    model.read_into(tensor, first * itemsize(dtype), memoryview(raw))
    return torch.frombuffer(raw, dtype=getattr(torch, torch_name(dtype))).float().numpy()

"""One tensor, merged block by block: the engine between a method's formula and the bytes of checkpoints.

Fresh large temporaries cost page faults; small blocks in reused buffers stay in the processor's cache. All
arithmetic is float32, whatever is stored; the result is rounded once. The bits of the result do not depend
on who merges which tensor, nor on how much of it is read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from merging.costs import BLOCK, PASS_AHEAD, READERS, SLICE
from merging.dtypes import itemsize, torch_name
from merging.methods import MergeMethod
from merging.methods.arithmetic import weighted_sum
from merging.read_ahead import Piece, ReadAhead, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


# A sample of a tensor: so many runs of so many elements, evenly spread.
SAMPLE_RUNS, SAMPLE_RUN = 64, 4096

# Fills a buffer with the bytes of input number i from an offset on.
Read = Callable[[int, int, memoryview], None]


def torch_dtype(name: str) -> torch.dtype:
    """torch's type for safetensors' name."""
    return getattr(torch, torch_name(name))  # type: ignore[no-any-return]


class Stored(NamedTuple):
    """A stretch of one input or of the output as it is stored, as bytes and as elements of the same memory."""

    raw: memoryview
    elements: Tensor


class Workspace:
    """The buffers of one worker, grown when needed and reused for every tensor.

    Args:
        device: where the arithmetic happens
    """

    OUTPUT = -1

    def __init__(self, device: str = "cpu"):
        self.device = device
        # A GPU wants few large blocks, a processor's cache small ones.
        self.block = BLOCK if device == "cpu" else SLICE
        self._bytes: dict[int, NDArray[np.uint8]] = {}
        self._views: dict[tuple[int, str, int], Stored] = {}
        self._rows: dict[tuple[torch.dtype, int], Tensor] = {}

    def stored(self, index: int, dtype: str, count: int) -> Stored:
        """Room for `count` elements of input `index` (or OUTPUT), with whatever lies there.

        Making the views costs as much as some of the arithmetic on a block, so they are kept.
        """
        view = self._views.get((index, dtype, count))
        if view is None:
            raw = self._room(index, count * itemsize(dtype))
            view = Stored(raw.data, torch.from_numpy(raw).view(torch_dtype(dtype)))
            if count == self.block:
                self._views[index, dtype, count] = view
        return view

    def _room(self, index: int, size: int) -> NDArray[np.uint8]:
        if index not in self._bytes or len(self._bytes[index]) < size:
            self._bytes[index] = np.empty(size, dtype=np.uint8)
            self._views = {key: view for key, view in self._views.items() if key[0] != index}
        return self._bytes[index][:size]

    def rows(self, count: int, length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """So many blocks for the arithmetic, whole or shorter; always the same ones."""
        rows = []
        for number in range(count):
            row = self._rows.get((dtype, number))
            if row is None:
                row = torch.empty(self.block, dtype=dtype, device=self.device)
                self._rows[dtype, number] = row
            rows.append(row if length == self.block else row[:length])
        return rows


class Inputs:
    """The inputs of one output tensor, all of the same shape, read as blocks as often as needed.

    Args:
        read: fills a buffer with bytes of an input
        dtypes: of the inputs, by safetensors' name
        size: number of elements of each
        remote: whether each read waits for a network, so that it pays to read ahead in each pass
        workspace: whose buffers to use; only one iteration at a time may be under way
        check: called once a block; raises to stop
        seed: of random methods, for this tensor
    """

    def __init__(
        self,
        read: Read,
        dtypes: Sequence[str],
        size: int,
        remote: bool,
        workspace: Workspace,
        check: Callable[[], None] = lambda: None,
        seed: Sequence[int] = (),
    ):
        self.read = read
        self.dtypes = dtypes
        self.size = size
        self.workspace = workspace
        self.check = check
        self.remote = remote
        self.seed = seed

    def blocks(
        self, which: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """Pairs of an offset and the blocks of the chosen inputs that begin there, in the dtype asked for.

        The blocks may be overwritten; the next step of the iteration reuses their memory.
        """
        length = SLICE if self.remote else self.workspace.block
        starts = range(0, self.size, length)
        yield from self._pass(which, [(start, min(length, self.size - start)) for start in starts], dtype)

    def block(self, which: Sequence[int], start: int) -> list[Tensor]:
        """The float32 blocks that begin at an offset which `blocks` has given."""
        count = min(self.workspace.block, self.size - start)
        return next(self._blocks(which, start, count, torch.float32, self.read))[1]

    def sample(self, which: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """The same for short runs that are evenly spread, or for everything if that is no more."""
        if self.size <= SAMPLE_RUNS * SAMPLE_RUN:
            yield from self.blocks(which)
            return
        starts = [(self.size - SAMPLE_RUN) * run // (SAMPLE_RUNS - 1) for run in range(SAMPLE_RUNS)]
        yield from self._pass(which, [(start, SAMPLE_RUN) for start in starts], torch.float32)

    def _pass(
        self, which: Sequence[int], stretches: Sequence[tuple[int, int]], dtype: torch.dtype
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """The blocks of stretches, each an offset and a number of elements, in order."""
        if not self.remote:
            for start, count in stretches:
                yield from self._blocks(which, start, count, dtype, self.read)
            return

        def pieces(part: int, start: int, count: int) -> Iterator[Piece]:
            for index in which:
                width = itemsize(self.dtypes[index])
                yield Piece(0, part, index, start * width, index, "", start * width, count * width)

        def read(index: int, _: str, start: int, buffer: memoryview) -> None:
            self.read(index, start, buffer)

        steps = (Step(list(pieces(part, *stretch))) for part, stretch in enumerate(stretches))
        with ReadAhead(steps, read, budget=PASS_AHEAD, threads=READERS) as ahead, ahead.tensor(0) as reader:
            for start, count in stretches:
                yield from self._blocks(which, start, count, dtype, reader.read)

    def _blocks(
        self, which: Sequence[int], start: int, count: int, dtype: torch.dtype, read: Read
    ) -> Iterator[tuple[int, list[Tensor]]]:
        for begin in range(start, start + count, self.workspace.block):
            self.check()
            length = min(self.workspace.block, start + count - begin)
            rows = self.workspace.rows(len(which), length, dtype)
            for row, index in zip(rows, which, strict=True):
                stored = self.workspace.stored(index, self.dtypes[index], length)
                read(index, begin * itemsize(self.dtypes[index]), stored.raw)
                row.copy_(stored.elements)
            yield begin, rows


class _TaskVector:
    """One model minus the base, for a sparsifier to measure."""

    def __init__(self, inputs: Inputs, index: int):
        self.inputs = inputs
        self.pair = (0, index)
        self.size = inputs.size
        self.seed = (*inputs.seed, index)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for start, (base, model) in self.inputs.blocks(self.pair):
            yield start, model.sub_(base)

    def block(self, start: int) -> Tensor:
        base, model = self.inputs.block(self.pair, start)
        return model.sub_(base)

    def sample(self) -> Iterator[tuple[int, Tensor]]:
        for start, (base, model) in self.inputs.sample(self.pair):
            yield start, model.sub_(base)


def merge_blocks(
    method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs
) -> Iterator[tuple[int, Tensor]]:
    """Merge one tensor.

    Args:
        method: the formula
        arguments: every parameter of it, by argument name; per-model ones as lists
        inputs: of the tensor; the base is number 0 where the method subtracts it

    Yields:
        Pairs of an offset and the merged float32 block that begins there, in order.
    """
    everything = range(len(inputs.dtypes))
    subtract = method.base == "subtracted"
    if subtract and len(everything) == 1:
        yield from ((start, blocks[0]) for start, blocks in inputs.blocks(everything))  # nothing to add
        return
    if method.from_products:
        coefficients = method.function(_products(method, inputs), **arguments)
        if subtract:
            coefficients = [1 - sum(coefficients), *coefficients]
        for start, blocks in inputs.blocks(everything):
            yield start, weighted_sum(blocks, coefficients)
        return
    own = {name: value for name, value in arguments.items() if name in _own(method)}
    if not subtract:
        for start, blocks in inputs.blocks(everything):
            yield start, method.function(blocks, **own)
        return
    sparsify = method.sparsify
    measured = _measure(method, arguments, inputs) if sparsify else ()
    for start, (base, *models) in inputs.blocks(everything):
        vectors = [model.sub_(base) for model in models]
        if sparsify:
            vectors = [sparsify.apply(v, start, m) for v, m in zip(vectors, measured, strict=True)]
        yield start, base.add_(method.function(vectors, **own))


def _own(method: MergeMethod) -> set[str]:
    """The names of the parameters that the function itself takes, and not its sparsifier."""
    of_sparsifier = {p.argument for p in method.sparsify.parameters} if method.sparsify else set()
    return {p.argument for p in method.parameters} - of_sparsifier


def _measure(method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs) -> list[Any]:
    """What the sparsifier has to know of each task vector."""
    assert method.sparsify
    measured = []
    for number in range(len(inputs.dtypes) - 1):
        given = {
            p.argument: arguments[p.argument][number] if p.per_model else arguments[p.argument]
            for p in method.sparsify.parameters
        }
        measured.append(method.sparsify.measure(_TaskVector(inputs, number + 1), **given))
    return measured


def _products(method: MergeMethod, inputs: Inputs) -> NDArray[np.float64]:
    """The K x K dot products between the whole inputs, or between their task vectors: one pass of its own."""
    everything = range(len(inputs.dtypes))
    subtract = method.base == "subtracted"
    count = len(everything) - subtract
    products = np.zeros((count, count))
    if not subtract:
        for _, wide in inputs.blocks(everything, torch.float64):
            products += dot_products(wide)
        return products
    for _, (base, *models) in inputs.blocks(everything):
        wide = inputs.workspace.rows(count, len(base), torch.float64)
        for row, model in zip(wide, models, strict=True):
            row.copy_(model.sub_(base))
        products += dot_products(wide)
    return products


def dot_products(wide: Sequence[Tensor]) -> NDArray[np.float64]:
    """The K x K dot products between K float64 blocks.

    Products of float32 numbers are exact in float64; only their sum rounds. One dot at a time: a matrix
    product of so few rows and so many columns takes three times as long.
    """
    products = np.empty((len(wide), len(wide)))
    for i, left in enumerate(wide):
        for j, right in enumerate(wide[: i + 1]):
            products[i, j] = products[j, i] = torch.dot(left, right).item()
    return products

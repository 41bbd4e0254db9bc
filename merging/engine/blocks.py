"""One tensor, merged block by block: the engine between a method's formula and the bytes of checkpoints.

Fresh large temporaries cost page faults; small blocks in reused buffers stay in the processor's cache. All
arithmetic is float32, whatever is stored; the result is rounded once. The bits of the result do not depend
on who merges which tensor, nor on how much of it is read at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from checkpoints.dtypes import itemsize
from merging.engine.prefetch import PASS_BUDGET, READERS, SLICE, Chunk, Origin, Prefetch, Window
from merging.engine.workspace import Workspace
from merging.methods import MergeMethod
from merging.methods.arithmetic import total, weighted_sum
from merging.methods.selection import keep_first
from merging.methods.singular import matrix_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from merging.methods.method import Over


# A sample of a tensor: evenly spread runs of elements.
SAMPLE_RUNS, SAMPLE_RUN = 64, 2048

# Fills a buffer with the bytes of input number i from an offset on.
Read = Callable[[int, int, memoryview], None]


class Inputs:
    """The inputs of one output tensor, all of the same shape, read as blocks as often as needed.

    Args:
        read: fills a buffer with bytes of an input
        dtypes: of the inputs, by safetensors' name
        shape: of each
        remote: whether each read waits for a network, so that each pass prefetches
        workspace: whose buffers to use; only one iteration at a time may be under way
        check: called once a block; raises to stop
        seed: of random methods, for this tensor
    """

    def __init__(
        self,
        read: Read,
        dtypes: Sequence[str],
        shape: Sequence[int],
        remote: bool,
        workspace: Workspace,
        check: Callable[[], None] = lambda: None,
        seed: Sequence[int] = (),
    ):
        self.read = read
        self.dtypes = dtypes
        self.shape = tuple(shape)
        self.size = math.prod(shape)
        self.row = max(shape[-1] if shape else 1, 1)
        self.workspace = workspace
        self.length = workspace.block
        self.check = check
        self.remote = remote
        self.seed = seed

    def in_rows(self) -> Inputs:
        """The same inputs in blocks of whole rows, as many as go into one; a longer row is a block by itself."""
        inputs = copy(self)
        inputs.length = max(self.workspace.block // self.row, 1) * self.row
        return inputs

    def blocks(
        self, which: Sequence[int], dtype: torch.dtype = torch.float32, span: range | None = None
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """Pairs of an offset and the blocks of the chosen inputs that begin there: K blocks of shape (n,), in the
        dtype asked for.

        A span of elements may stand for the whole. The blocks may be overwritten; the next step of the iteration
        reuses their memory.
        """
        length = max(SLICE // self.length, 1) * self.length if self.remote else self.length
        span = range(self.size) if span is None else span
        starts = range(span.start, span.stop, length)
        yield from self._pass(which, [(start, min(length, span.stop - start)) for start in starts], dtype)

    def block(self, which: Sequence[int], start: int) -> list[Tensor]:
        """The float32 blocks that begin at an offset which `blocks` has given."""
        count = min(self.length, self.size - start)
        return next(self._blocks(which, start, count, torch.float32, self.read))[1]

    def sample(self, which: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """The same for short runs that are evenly spread, or for everything if that is no more."""
        unit = self.row if self.length % self.row == 0 else 1
        run = max(SAMPLE_RUN // unit, 1) * unit
        if self.size <= SAMPLE_RUNS * run:
            yield from self.blocks(which)
            return
        starts = [(self.size - run) // unit * i // (SAMPLE_RUNS - 1) * unit for i in range(SAMPLE_RUNS)]
        yield from self._pass(which, [(start, run) for start in starts], torch.float32)

    def _pass(
        self, which: Sequence[int], spans: Sequence[tuple[int, int]], dtype: torch.dtype
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """The blocks of spans, each an offset and a number of elements, in order."""
        if not self.remote:
            for start, count in spans:
                yield from self._blocks(which, start, count, dtype, self.read)
            return

        def chunks(part: int, start: int, count: int) -> Iterator[Chunk]:
            for index in which:
                width = itemsize(self.dtypes[index])
                yield Chunk(0, part, index, start * width, Origin(index), start * width, count * width)

        def read(origin: Origin, start: int, buffer: memoryview) -> None:
            self.read(origin.model, start, buffer)

        windows = (Window(list(chunks(part, *span))) for part, span in enumerate(spans))
        with (
            Prefetch(windows, read, budget=PASS_BUDGET, threads=READERS) as prefetch,
            prefetch.tensor(0) as reader,
        ):
            for start, count in spans:
                yield from self._blocks(which, start, count, dtype, reader.read)

    def _blocks(
        self, which: Sequence[int], start: int, count: int, dtype: torch.dtype, read: Read
    ) -> Iterator[tuple[int, list[Tensor]]]:
        known, rows, stored = 0, [], []
        for begin in range(start, start + count, self.length):
            self.check()
            length = min(self.length, start + count - begin)
            if length != known:  # of all but the last block it is the same
                known, rows = length, self.workspace.rows(len(which), length, dtype)
                stored = [self.workspace.stored(Workspace.INPUT, self.dtypes[i], length) for i in which]
            for row, index, (raw, elements) in zip(rows, which, stored, strict=True):
                read(index, begin * elements.itemsize, raw)
                row.copy_(elements)
            yield begin, rows


class _Operands:
    """Some inputs of a tensor as a method is given them: as they are, or less the first of them, which is the base."""

    def __init__(self, inputs: Inputs, which: Sequence[int], subtract: bool):
        self.inputs = inputs
        self.which = which
        self.subtract = subtract
        self.size = inputs.size
        self.row = inputs.row
        self.seed = (*inputs.seed, which[-1])

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        return ((start, self._given(blocks)) for start, blocks in self.inputs.blocks(self.which))

    def block(self, start: int) -> list[Tensor]:
        return self._given(self.inputs.block(self.which, start))

    def sample(self) -> Iterator[tuple[int, list[Tensor]]]:
        return ((start, self._given(blocks)) for start, blocks in self.inputs.sample(self.which))

    def _given(self, blocks: list[Tensor]) -> list[Tensor]:
        if not self.subtract:
            return blocks
        base, *models = blocks
        return [model.sub_(base) for model in models]


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
    subtract = method.subtracts(len(everything), arguments)
    if subtract and len(everything) == 1:
        yield from ((start, blocks[0]) for start, blocks in inputs.blocks(everything))  # nothing to add
        return
    if method.from_products:
        yield from _merge_by_products(method, arguments, inputs, subtract)
        return
    if method.by_rows:
        inputs = inputs.in_rows()
    if method.by_matrices:
        yield from _merge_by_matrices(method, arguments, inputs)
        return
    own = {name: value for name, value in arguments.items() if name in _own(method)}
    measured: tuple[Any, ...] = ()
    if method.measure:
        measured = (method.measure(_Operands(inputs, everything, subtract), **own),)
    for start, base, blocks in operands(method, arguments, inputs):
        found = (*measured, start) if measured else ()
        merged = method.function(blocks, *found, **own)
        yield start, merged if base is None else base.add_(merged)


def operands(
    method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs
) -> Iterator[tuple[int, Tensor | None, list[Tensor]]]:
    """What the function of a method of blocks is given; arguments as for `merge_blocks`.

    Yields:
        An offset, the base's float32 block (n,) that begins there (None where no base is subtracted), and the blocks of
        the models, or their task vectors after the sparsifier.
    """
    everything = range(len(inputs.dtypes))
    subtract = method.subtracts(len(everything), arguments)
    cuts = _measure(method, arguments, inputs) if method.sparsify else ()
    for start, blocks in inputs.blocks(everything):
        if not subtract:
            yield start, None, blocks
            continue
        base, *models = blocks
        vectors = [model.sub_(base) for model in models]
        if method.sparsify:
            vectors = [method.sparsify.apply(v, start, cut) for v, cut in zip(vectors, cuts, strict=True)]
        yield start, base, vectors


def _own(method: MergeMethod) -> set[str]:
    """The names of the parameters that the function itself takes, and not its sparsifier."""
    of_sparsifier = {p.argument for p in method.sparsify.parameters} if method.sparsify else set()
    return {p.argument for p in method.parameters} - of_sparsifier


def _measure(method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs) -> list[Any]:
    """What the sparsifier has to know of each task vector."""
    sparsify = method.sparsify
    assert sparsify
    count = len(inputs.dtypes) - 1
    given = [
        {
            p.argument: arguments[p.argument][i] if p.per_model else arguments[p.argument]
            for p in sparsify.parameters
        }
        for i in range(count)
    ]
    vectors = [_Operands(inputs, (0, i + 1), subtract=True) for i in range(count)]
    together = _Operands(inputs, range(count + 1), subtract=True)
    cuts = keep_first(together, [sparsify.numbers(inputs.size, own) for own in given])
    return [
        sparsify.measure(vector, found, **own)
        for vector, found, own in zip(vectors, cuts, given, strict=True)
    ]


def _merge_by_matrices(
    method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs
) -> Iterator[tuple[int, Tensor]]:
    """Merge whole matrices of task vectors, one after the other if they are packed; any other tensor by blocks."""
    assert method.elsewhere
    everything = range(len(inputs.dtypes))
    shape = matrix_shape(inputs.shape)
    if shape is None or not method.wants_matrices(arguments):
        for start, (base, *models) in inputs.blocks(everything):
            yield start, base.add_(method.elsewhere([model.sub_(base) for model in models], **arguments))
        return
    size = math.prod(shape)
    for first in range(0, inputs.size, size):
        span = range(first, first + size)
        matrices = [torch.empty(size, device=inputs.workspace.device) for _ in everything[1:]]
        for start, (base, *models) in inputs.blocks(everything, span=span):
            for matrix, model in zip(matrices, models, strict=True):
                torch.sub(model, base, out=matrix[start - first : start - first + len(base)])
        change = method.function([matrix.view(shape) for matrix in matrices], **arguments).flatten()
        del matrices
        for start, (base,) in inputs.blocks(everything[:1], span=span):
            yield start, base.add_(change[start - first : start - first + len(base)])


def _merge_by_products(
    method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs, subtract: bool
) -> Iterator[tuple[int, Tensor]]:
    """Merge by coefficients that depend on the dot products alone: a pass to find them, and a pass to add up."""
    everything = range(len(inputs.dtypes))
    over = method.over(arguments)
    if over == "columns" and len(inputs.shape) < 2:
        over = "rows"
    if over != "tensor":
        inputs = inputs.in_rows()
    coefficients = method.function(products(inputs, over, subtract), **arguments)
    if over == "tensor":
        if subtract:
            coefficients = [1 - sum(coefficients), *coefficients]
        for start, blocks in inputs.blocks(everything):
            yield start, weighted_sum(blocks, coefficients)
        return
    if subtract:
        coefficients = np.concatenate([1 - coefficients.sum(axis=0, keepdims=True), coefficients])
    # Of every row, to be multiplied with it, or of every column.
    factors = torch.from_numpy(coefficients).float().to(inputs.workspace.device)
    for start, blocks in inputs.blocks(everything):
        first = start // inputs.row
        for block, own in zip(blocks, factors, strict=True):
            rows = block.view(-1, inputs.row)
            rows.mul_(own if over == "columns" else own[first : first + len(rows), None])
        yield start, total(blocks)


def products(inputs: Inputs, over: Over, subtract: bool) -> NDArray[np.float64]:
    """The K x K dot products between the inputs, or between their task vectors; K x K x G over rows or columns."""
    everything = range(len(inputs.dtypes))
    count = len(everything) - subtract
    groups = {"tensor": (), "rows": (inputs.size // inputs.row,), "columns": (inputs.row,)}[over]
    sums = np.zeros((count, count, *groups))
    for start, wide in _wide_blocks(inputs, subtract):
        if over == "tensor":
            sums += dot_products(wide)
            continue
        rows = [block.view(-1, inputs.row) for block in wide]
        first = start // inputs.row
        part = sums[:, :, first : first + len(rows[0])] if over == "rows" else sums
        for i, left in enumerate(rows):
            for j, right in enumerate(rows[: i + 1]):
                part[i, j] += (left * right).sum(dim=int(over == "rows")).cpu().numpy()
                part[j, i] = part[i, j]
    return sums


def _wide_blocks(inputs: Inputs, subtract: bool) -> Iterator[tuple[int, list[Tensor]]]:
    """The blocks of the inputs, or of their task vectors, as float64."""
    everything = range(len(inputs.dtypes))
    if not subtract:
        yield from inputs.blocks(everything, torch.float64)
        return
    for start, (base, *models) in inputs.blocks(everything):
        wide = inputs.workspace.rows(len(models), base.numel(), torch.float64)
        for row, model in zip(wide, models, strict=True):
            row.copy_(model.sub_(base))
        yield start, wide


def dot_products(wide: Sequence[Tensor]) -> NDArray[np.float64]:
    """The K x K dot products between K float64 blocks.

    Products of float32 numbers are exact in float64; only their sum rounds. One dot at a time: a matrix
    product of few rows and many columns takes three times as long.
    """
    products = np.empty((len(wide), len(wide)))
    for i, left in enumerate(wide):
        for j, right in enumerate(wide[: i + 1]):
            products[i, j] = products[j, i] = torch.dot(left, right).item()
    return products

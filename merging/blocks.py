"""One tensor, merged block by block: the engine between a method's formula and the bytes of checkpoints.

Fresh large temporaries cost page faults; small blocks in reused buffers stay in the processor's cache. All
arithmetic is float32, whatever is stored; the result is rounded once. The bits of the result do not depend
on who merges which tensor, nor on how much of it is read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


class Workspace:
    """The buffers of one worker, grown when needed and reused for every tensor."""

    def __init__(self, device: str = "cpu"):
        self.device = device
        # A GPU wants few large blocks, a processor's cache small ones.
        self.block = BLOCK if device == "cpu" else SLICE
        self._raw: dict[int, NDArray[np.uint8]] = {}
        self._rows: list[Tensor] = []

    def raw(self, index: int, size: int) -> NDArray[np.uint8]:
        """`size` bytes for the stored form of input `index` (-1: of the output)."""
        if index not in self._raw or len(self._raw[index]) < size:
            self._raw[index] = np.empty(size, dtype=np.uint8)
        return self._raw[index][:size]

    def tensor(self, raw: NDArray[np.uint8], dtype: torch.dtype) -> Tensor:
        """The elements that stored bytes stand for, in the same memory."""
        return torch.from_numpy(raw).view(dtype)

    def rows(self, count: int, length: int) -> list[Tensor]:
        """Float32 rows, whole blocks or shorter."""
        while len(self._rows) < count:
            self._rows.append(torch.empty(self.block, dtype=torch.float32, device=self.device))
        rows = self._rows[:count]
        # Slicing costs as much as some of the arithmetic, and nearly all blocks are whole.
        return rows if length == self.block else [row[:length] for row in rows]


class Inputs:
    """The inputs of one output tensor, all of the same shape, read as float32 blocks as often as needed.

    Args:
        read: fills a buffer with bytes of an input
        dtypes: of the inputs, by safetensors' name
        size: number of elements of each
        remote: whether each read waits for a network, so that it pays to read ahead in each pass
        workspace: whose buffers to use; only one iteration at a time may be under way
        check: called once a block; raises to stop
    """

    def __init__(
        self,
        read: Read,
        dtypes: Sequence[str],
        size: int,
        remote: bool,
        workspace: Workspace,
        check: Callable[[], None] = lambda: None,
    ):
        self.read = read
        self.dtypes = dtypes
        self.size = size
        self.workspace = workspace
        self.check = check
        self.remote = remote

    def blocks(self, which: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """Pairs of an offset and the float32 blocks of the chosen inputs that begin there.

        The blocks may be overwritten; the next step of the iteration reuses their memory.
        """
        length = SLICE if self.remote else self.workspace.block
        starts = range(0, self.size, length)
        yield from self._pass(which, [(start, min(length, self.size - start)) for start in starts])

    def sample(self, which: Sequence[int]) -> Iterator[tuple[int, list[Tensor]]]:
        """The same for short runs that are evenly spread, or for everything if that is no more."""
        if self.size <= SAMPLE_RUNS * SAMPLE_RUN:
            yield from self.blocks(which)
            return
        starts = [(self.size - SAMPLE_RUN) * run // (SAMPLE_RUNS - 1) for run in range(SAMPLE_RUNS)]
        yield from self._pass(which, [(start, SAMPLE_RUN) for start in starts])

    def _pass(
        self, which: Sequence[int], stretches: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """The float32 blocks of stretches, each an offset and a number of elements, in order."""
        if not self.remote:
            for start, count in stretches:
                yield from self._blocks(which, start, count, self.read)
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
                yield from self._blocks(which, start, count, reader.read)

    def _blocks(
        self, which: Sequence[int], start: int, count: int, read: Read
    ) -> Iterator[tuple[int, list[Tensor]]]:
        for begin in range(start, start + count, self.workspace.block):
            self.check()
            length = min(self.workspace.block, start + count - begin)
            rows = self.workspace.rows(len(which), length)
            stored = [self._stored(index, begin, length, read) for index in which]
            for row, tensor in zip(rows, stored, strict=True):
                row.copy_(tensor)
            yield begin, rows

    def _stored(self, index: int, start: int, count: int, read: Read) -> Tensor:
        """Elements of one input in the dtype they are stored in."""
        dtype = self.dtypes[index]
        raw = self.workspace.raw(index, count * itemsize(dtype))
        read(index, start * itemsize(dtype), raw.data)
        return self.workspace.tensor(raw, torch_dtype(dtype))


class _TaskVector:
    """One model minus the base, for a sparsifier to measure."""

    def __init__(self, inputs: Inputs, index: int):
        self.inputs = inputs
        self.index = index
        self.size = inputs.size

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for start, (base, model) in self.inputs.blocks([0, self.index]):
            yield start, model.sub_(base)

    def sample(self) -> Iterator[tuple[int, Tensor]]:
        for start, (base, model) in self.inputs.sample([0, self.index]):
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
    if method.from_products:
        formula = _from_products(method, arguments, inputs)
    else:
        own = {p.argument: arguments[p.argument] for p in method.parameters if p.argument in _own(method)}

        def formula(blocks: list[Tensor]) -> Tensor:
            return method.function(blocks, **own)  # type: ignore[no-any-return]

    cuts = _measure(method, arguments, inputs) if method.sparsify else None
    for start, blocks in inputs.blocks(everything):
        if not subtract:
            yield start, formula(blocks)
            continue
        base, vectors = blocks[0], [block.sub_(blocks[0]) for block in blocks[1:]]
        if cuts and method.sparsify:
            vectors = [method.sparsify.apply(v, start, cut) for v, cut in zip(vectors, cuts, strict=True)]
        # A base alone has no task vectors, and nothing is added to it.
        yield start, base.add_(formula(vectors)) if vectors else base


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


def _from_products(
    method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs
) -> Callable[[list[Tensor]], Tensor]:
    """Make the coefficients from the dot products between the whole inputs: one pass of its own."""
    subtract = method.base == "subtracted"
    count = len(inputs.dtypes) - subtract
    products = np.zeros((count, count))
    for _, blocks in inputs.blocks(range(len(inputs.dtypes))):
        if subtract:
            blocks = [block.sub_(blocks[0]) for block in blocks[1:]]
        products += dot_products(blocks)
    coefficients = method.function(products, **arguments)
    return lambda blocks: weighted_sum(blocks, coefficients)


def dot_products(blocks: Sequence[Tensor]) -> NDArray[np.float64]:
    """The K x K dot products between K float32 blocks.

    Products of float32 numbers are exact in float64; only their sum rounds. One dot at a time: a matrix
    product of so few rows and so many columns takes three times as long.
    """
    wide = [block.double() for block in blocks]
    products = np.empty((len(wide), len(wide)))
    for i, left in enumerate(wide):
        for j, right in enumerate(wide[: i + 1]):
            products[i, j] = products[j, i] = torch.dot(left, right).item()
    return products

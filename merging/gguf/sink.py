"""A sink that makes GGUF files of the tensors of a merge, beside the merge's own files or instead of them.

Each tensor is quantized by the worker that merged it, once for each file: the parents are read once. A tensor whose
numbers stay in their order is quantized row by row while it comes in; of any other, the model's tensors are held.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.dtypes import itemsize, torch_name
from merging.destinations import Receipt, ShardWriter, Sink, Stored
from merging.destinations.written_parts import WrittenParts
from merging.gguf.file import GgufFile, Placed
from merging.gguf.layout import LaidOut
from merging.gguf.quantization import quantize
from merging.plan import Plan, PlannedShard, PlannedTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Elements that are quantized at once.
BLOCK = 1 << 20


class GgufSink:
    """Takes the shards of a plan; what it writes are GGUF files.

    Args:
        plan: whose shards come, each at least once
        files: to be made, of one layout
        sink: that takes them; where it wants the bytes of a file in their order, each tensor of several pieces is held
            until it is whole
    """

    crosses_processes = False
    in_order = False

    def __init__(self, plan: Plan, files: Sequence[GgufFile], sink: Sink):
        self._plan = plan
        self._files = files
        self._sink = sink
        self._shards = {shard.filename: shard for shard in plan.shards}
        self._outputs: list[_Output] = []
        self._tensors: dict[str, _Tensor] = {}
        self._uses: defaultdict[str, list[tuple[_Tensor, int]]] = defaultdict(list)
        self._in_order = sink.in_order
        self._lock = threading.Lock()
        self._whole: set[str] = set()  # tensors of the model that have come

    def begin(self) -> None:
        """Open the files, and write their headers and what follows from no tensor of the model."""
        self._outputs = [
            _Output(file, self._sink.open_shard(file.filename, file.size)) for file in self._files
        ]
        if not self._files:
            return
        # A folder notes what of the files is whole.
        done: frozenset[str] = getattr(self._sink, "done", frozenset())
        parts: WrittenParts | None = getattr(self._sink, "parts", None)
        for number, laid_out in enumerate(self._files[0].layout.tensors):
            if laid_out.name in done:
                continue
            places = [(output, output.file.places[number]) for output in self._outputs]
            tensor = _Tensor(laid_out, places, self._in_order, parts)
            self._tensors[laid_out.name] = tensor
            for part, piece in enumerate(laid_out.pieces):
                for name in piece.inputs:
                    self._uses[name].append((tensor, part))
                if not piece.inputs:
                    tensor.compute(part, {})

    def open_shard(self, filename: str, size: int) -> TappedShard:
        return TappedShard(self, self._shards[filename])

    def to_data(self) -> None:
        return None

    def needs(self, shard: PlannedShard) -> bool:
        """Whether a file needs a tensor of a shard; known after `begin`."""
        return any(tensor.name in self._uses for tensor in shard.tensors)

    def reader(self, tensor: PlannedTensor) -> _Reader | None:
        """What takes the bytes of a tensor of the model; None where no file needs them, or has them already."""
        with self._lock:
            uses = self._uses.get(tensor.name, ())
            if not uses or tensor.name in self._whole:
                return None
        [(first, part), *more] = uses
        piece = first.laid_out.pieces[part]
        if piece.is_plain and not more:
            return _Rows(tensor, first, part)
        return _Whole(tensor, self)

    def came(self, tensor: PlannedTensor) -> None:
        """A tensor of the model came in whole."""
        with self._lock:
            self._whole.add(tensor.name)

    def compute(self, tensor: PlannedTensor, numbers: Any) -> None:
        """Compute what follows from a tensor that came in whole, and is needed in another order.

        Args:
            numbers: of the tensor, as a torch tensor of its dtype and shape
        """
        for use, part in self._uses[tensor.name]:
            given = use.given(part, tensor.name, numbers)
            if given is not None:
                use.compute(part, given)

    def finish(self) -> Iterator[Receipt]:
        """Wait until the files have arrived; yields a receipt for each that has.

        Raises:
            LostShardError: one did not.
        """
        unfinished = [name for name, tensor in self._tensors.items() if not tensor.is_done]
        assert not unfinished, f"tensors that did not come: {unfinished[:3]}"
        for output in self._outputs:
            stored = output.writer.close()
            name, size = output.file.filename, output.file.size
            yield Receipt(name, size, stored.sha256, written_by=(stored.way,))


class _Output:
    """A file under way."""

    def __init__(self, file: GgufFile, writer: ShardWriter):
        self.file = file
        self.writer = writer
        writer.write(0, memoryview(file.header))


class _Tensor:
    """A tensor of the files.

    Args:
        laid_out: the tensor
        places: in each file
        in_order: whether a file wants its bytes in their order
        parts: notes it when it is whole, if there is one
    """

    def __init__(
        self,
        laid_out: LaidOut,
        places: Sequence[tuple[_Output, Placed]],
        in_order: bool,
        parts: WrittenParts | None,
    ):
        self.laid_out = laid_out
        self._parts = parts
        self._places = places
        self._lock = threading.Lock()
        self._starts = [0]
        for piece in laid_out.pieces:
            self._starts.append(self._starts[-1] + piece.elements)
        self._left = self._starts[-1]
        self._given: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        holds = in_order and len(laid_out.pieces) > 1
        self._held = [bytearray(placed.bytes) for _, placed in places] if holds else None

    @property
    def is_done(self) -> bool:
        return self._left == 0

    def given(self, part: int, name: str, numbers: Any) -> Mapping[str, Any] | None:
        """Note an input of a piece; all of them where none is missing any more."""
        with self._lock:
            found = self._given[part]
            found[name] = numbers
            if len(found) < len(self.laid_out.pieces[part].inputs):
                return None
            return self._given.pop(part)

    def compute(self, part: int, inputs: Mapping[str, Any]) -> None:
        """Compute a piece, and write it."""
        piece = self.laid_out.pieces[part]
        numbers = piece.computed(inputs).numpy().reshape(-1)
        step = max(BLOCK // self.laid_out.width, 1) * self.laid_out.width
        for start in range(0, len(numbers), step):
            self.write(part, start, numbers[start : start + step])

    def write(self, part: int, start: int, numbers: NDArray[np.float32]) -> None:
        """Write whole rows, from an element of a piece on."""
        width = self.laid_out.width
        rows = numbers.reshape(-1, width)
        row = (self._starts[part] + start) // width
        written: dict[str, memoryview] = {}
        for index, (output, placed) in enumerate(self._places):
            if placed.type.name not in written:
                written[placed.type.name] = quantize(rows, placed.type)
            data, offset = written[placed.type.name], row * placed.row_bytes
            if self._held is None:
                output.writer.write(placed.offset + offset, data)
            else:
                self._held[index][offset : offset + len(data)] = data
        with self._lock:
            self._left -= len(numbers)
            is_last = self._left == 0
        if is_last:
            self._end()

    def _end(self) -> None:
        """Write what was held, and what is between this tensor and the next."""
        for index, (output, placed) in enumerate(self._places):
            if self._held is not None:
                output.writer.write(placed.offset, memoryview(self._held[index]))
            if placed.padding:
                output.writer.write(placed.offset + placed.bytes, memoryview(bytes(placed.padding)))
        self._held = None
        if self._parts:
            self._parts.note(self.laid_out.name, sum(placed.bytes for _, placed in self._places))


class _Rows:
    """Takes a tensor whose numbers stay in their order, and writes rows as they come."""

    def __init__(self, tensor: PlannedTensor, use: _Tensor, part: int):
        self._dtype = tensor.dtype
        self._use = use
        self._part = part
        self._rest = bytearray()
        self._done = 0  # elements written
        self._row = use.laid_out.width * itemsize(tensor.dtype)

    def take(self, data: memoryview) -> None:
        """Take the next bytes."""
        if self._rest or len(data) % self._row:
            self._rest += data
            size = len(self._rest) // self._row * self._row
            data, self._rest = memoryview(self._rest[:size]), self._rest[size:]
        if data:
            numbers = _numbers(data, self._dtype).float().numpy()
            self._use.write(self._part, self._done, numbers)
            self._done += len(numbers)

    def end(self) -> None:
        """All bytes were taken, and written."""


class _Whole:
    """Takes a tensor that is needed in another order, or more than once."""

    def __init__(self, tensor: PlannedTensor, sink: GgufSink):
        self._tensor = tensor
        self._sink = sink
        self._bytes = bytearray()

    def take(self, data: memoryview) -> None:
        self._bytes += data

    def end(self) -> None:
        numbers = _numbers(memoryview(self._bytes), self._tensor.dtype).reshape(self._tensor.shape)
        self._sink.compute(self._tensor, numbers)


_Reader = _Rows | _Whole


def _numbers(data: memoryview, dtype: str) -> Any:
    """The elements in these bytes, as a torch tensor (n,) that shares their memory or has a copy."""
    import torch

    raw = data if not data.readonly else bytearray(data)
    return torch.frombuffer(raw, dtype=getattr(torch, torch_name(dtype)))


class TappedShard:
    """A shard of the merge, whose tensors go into GGUF files.

    The bytes of one tensor come in their order, from one thread; those of several tensors from several.
    """

    def __init__(self, sink: GgufSink, shard: PlannedShard):
        self._sink = sink
        self._places = [(offset, tensor) for tensor, offset in shard.places() if tensor.bytes]
        self._starts = [offset for offset, _ in self._places]
        self._readers: dict[str, _Reader | None] = {}

    def write(self, offset: int, data: memoryview) -> None:
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return  # the header
        start, tensor = self._places[index]
        if offset == start:
            self._readers[tensor.name] = self._sink.reader(tensor)
        reader = self._readers[tensor.name]
        is_last = offset + len(data) == start + tensor.bytes
        if reader:
            reader.take(data)
            if is_last:
                reader.end()
                self._sink.came(tensor)
        if is_last:
            self._readers[tensor.name] = None

    def close(self) -> Stored:
        return Stored(None, "GGUF")


class Tee:
    """A sink that gives each file to a first sink and to a second.

    Args:
        first: that keeps the files
        second: that looks at them
        kept: names of files that the first one has already
    """

    crosses_processes = False
    in_order = False

    def __init__(self, first: Sink, second: GgufSink, kept: frozenset[str]):
        self._first = first
        self._second = second
        self._kept = kept

    def open_shard(self, filename: str, size: int) -> TeeShard:
        first = None if filename in self._kept else self._first.open_shard(filename, size)
        return TeeShard(first, self._second.open_shard(filename, size))

    def to_data(self) -> None:
        return None


class TeeShard:
    """A file that two sinks get."""

    def __init__(self, first: ShardWriter | None, second: ShardWriter):
        self._first = first
        self._second = second

    def write(self, offset: int, data: memoryview) -> None:
        if self._first:
            self._first.write(offset, data)
        self._second.write(offset, data)

    def close(self) -> Stored:
        self._second.close()
        return self._first.close() if self._first else Stored(None, "an earlier run")


def held(files: Sequence[GgufFile], plan: Plan, workers: int) -> int:
    """Bytes that the sink holds at most, beside the files themselves.

    Args:
        workers: that merge at a time
    """
    if not files:
        return 0
    sizes = {tensor.name: tensor.bytes for tensor in plan.tensors}
    reordered = [
        sum(sizes[name] for name in piece.inputs) + 8 * piece.elements
        for tensor in files[0].layout.tensors
        for piece in tensor.pieces
        if not piece.is_plain
    ]
    largest = sorted(reordered, reverse=True)[:workers]
    return sum(largest) + workers * BLOCK * 12

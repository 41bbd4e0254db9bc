"""Prefetching: what comes over a network is fetched before it is merged, in the order in which it will be.

A request takes a round trip however little it brings, so what is close together in a file comes in one. A budget bounds
the bytes that are held. It admits a window of the order as a whole: admitted one by one, the chunks of one model could
fill it while the merge waits for those of another, and both would wait forever.
"""

from __future__ import annotations

import math
import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from checkpoints.dtypes import itemsize
from checkpoints.problems import Cancelled
from merging.methods import METHODS

if TYPE_CHECKING:
    from checkpoints import TensorHeader
    from merging.plan import Input, Plan, PlannedTensor

# Elements of a large tensor that are fetched at once, where each request waits for the network; a multiple of the
# block that the arithmetic sees.
SLICE = 4 * 1024 * 1024
# Bytes that are fetched together: tensors up to this size in groups, larger ones in slices.
WINDOW = 32 * 1024 * 1024
# Inputs that together are no larger than this are fetched once for all passes of a method. What is in a folder is read
# again in each pass: the system's cache has it.
RESIDENT = 128 * 1024 * 1024
# Prefetch budget in bytes (whole tensors may exceed it), and its threads: enough to have the whole budget in flight, so
# that measured memory matches the estimate even on a slow link.
BUDGET = 128 * 1024 * 1024
READERS = 12
# The same for one pass over a tensor that is too large to be held, for each worker.
PASS_BUDGET = 64 * 1024 * 1024
# Bytes between two chunks of a file that are fetched along with them: less than a round trip is worth.
GAP = 64 * 1024
# Bytes of one request; a longer range comes in several, at the same time.
MAX_REQUEST = 16 * 1024 * 1024
# Seconds that the end waits for requests under way, which nothing needs any more.
STOP_SECONDS = 1.0


def rereads(plan: Plan) -> bool:
    """Whether inputs have to be held whole, or be read by the merge itself in each of its passes."""
    method = METHODS[plan.method]
    return any(method.rereads(tensor.parameters) for tensor in plan.tensors if not tensor.is_one_input)


def stored_bytes(plan: Plan, tensor: PlannedTensor) -> int:
    """Bytes of a tensor's inputs as they are stored, if their models keep one dtype."""
    models = [plan.models[part.model] for part in tensor.inputs]
    widths = (
        model.bytes / model.parameters if model.parameters else itemsize(tensor.dtype) for model in models
    )
    return math.ceil(tensor.elements * sum(widths))


def held(plan: Plan) -> int:
    """Bytes that are prefetched at a time: room for two of the largest tensors that are held whole, so that one is
    merged while the next comes. A window that is larger is held alone."""
    if not any(model.is_remote for model in plan.models):
        return 0
    again, windows = rereads(plan), [0]
    largest = 0
    for tensor in plan.tensors:
        stored = stored_bytes(plan, tensor)
        if not again or tensor.copied_from is not None:
            windows.append(math.ceil(stored * min(tensor.elements, SLICE) / max(tensor.elements, 1)))
        elif stored <= RESIDENT:
            largest = max(largest, stored)
    return max(min(max(BUDGET, 2 * largest), plan.bytes_in), *windows)


def held_by_a_pass(plan: Plan, tensor: PlannedTensor) -> int:
    """Bytes that a pass over a tensor prefetches by itself, if it is read again and too large to be held."""
    stored = stored_bytes(plan, tensor)
    is_held = stored <= RESIDENT or tensor.copied_from is not None
    if is_held or not any(model.is_remote for model in plan.models):
        return 0
    return max(PASS_BUDGET, math.ceil(stored * min(SLICE / max(tensor.elements, 1), 1)))


class Origin(NamedTuple):
    """Where bytes come from: a file of a model, or a tensor of it that is computed when it is read.

    Args:
        model: index in the plan
        file: of the model; empty where the tensor is computed
        tensor: that is computed; empty where a file holds the bytes
    """

    model: int
    file: str = ""
    tensor: str = ""


class Chunk(NamedTuple):
    """Bytes that belong to an input of an output tensor.

    Args:
        tensor: number of the output tensor, in the plan's order
        part: number of the slice of it, 0 where it is not sliced
        input: index among the tensor's inputs
        offset: of the first byte in the input
        origin, start, nbytes: where the bytes are
    """

    tensor: int
    part: int
    input: int
    offset: int
    origin: Origin
    start: int
    nbytes: int


class ByteRange:
    """Chunks of one origin that are close together, from `start` up to `end`."""

    def __init__(self, chunk: Chunk):
        self.origin, self.start = chunk.origin, chunk.start
        self.end = chunk.start + chunk.nbytes
        self.chunks = [chunk]

    def takes(self, chunk: Chunk) -> bool:
        """Whether the next chunk is near enough; it then belongs to the range."""
        if self.origin != chunk.origin or chunk.start > self.end + GAP:
            return False
        self.end = max(self.end, chunk.start + chunk.nbytes)
        self.chunks.append(chunk)
        return True

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class Window:
    """Chunks that are admitted, fetched and dropped together."""

    def __init__(self, chunks: Sequence[Chunk]):
        self.parts = {(chunk.tensor, chunk.part) for chunk in chunks}
        self.ranges: list[ByteRange] = []
        for chunk in sorted(chunks, key=lambda chunk: (chunk.origin, chunk.start)):
            if not self.ranges or not self.ranges[-1].takes(chunk):
                self.ranges.append(ByteRange(chunk))
        self.nbytes = sum(found.nbytes for found in self.ranges)


# The header of an input that comes over a network; None for one that does not.
Find = Callable[["Input"], "TensorHeader | None"]


def is_prefetched(tensor: PlannedTensor, find: Find, rereads: bool) -> bool:
    """Whether what a tensor takes from the network is prefetched.

    A method that passes over its inputs more than once needs them whole, and what is too large for that the merge
    reads itself, again in each pass.
    """
    size = sum(header.nbytes for part in tensor.inputs if (header := find(part)))
    return size > 0 and (size <= RESIDENT or not rereads or tensor.copied_from is not None)


def windows(tensors: Iterable[PlannedTensor], find: Find, rereads: bool, first: int = 0) -> Iterator[Window]:
    """Cut what is prefetched into windows, in the order of the output: small tensors in groups, large ones in slices,
    and whole ones for a method that rereads them. The output tensors are numbered from `first` on."""
    group: list[Chunk] = []
    size = 0
    for number, tensor in enumerate(tensors, first):
        if not is_prefetched(tensor, find, rereads):
            continue
        inputs = [
            (i, _origin(part, header), header)
            for i, part in enumerate(tensor.inputs)
            if (header := find(part))
        ]
        total = sum(header.nbytes for _, _, header in inputs)
        if group and size + total > WINDOW:
            yield Window(group)
            group, size = [], 0
        is_whole = total <= WINDOW or (rereads and tensor.copied_from is None)
        count = tensor.elements if is_whole else SLICE
        for part, start in enumerate(range(0, tensor.elements, count)):
            for index, origin, header in inputs:
                width = itemsize(header.dtype)
                offset, nbytes = start * width, min(count, tensor.elements - start) * width
                group.append(Chunk(number, part, index, offset, origin, header.start + offset, nbytes))
            if total > WINDOW:
                yield Window(group)
                group = []
            else:
                size += total
    if group:
        yield Window(group)


def _origin(part: Input, header: TensorHeader) -> Origin:
    return Origin(part.model, header.file) if header.file else Origin(part.model, tensor=part.tensor)


class _Held:
    """A window in memory: complete when no request is missing, dropped when no part uses it any more."""

    def __init__(self, window: Window):
        self.nbytes = window.nbytes
        self.users = len(window.parts)
        self.requests: list[_Request] = []
        self.places: dict[tuple[int, int, int], tuple[int, memoryview]] = {}
        for found in window.ranges:
            # Pages of its own, which go back to the system with it: from the heap, pieces of a few MB by and by
            # leave hundreds of MB of holes.
            pages = mmap.mmap(-1, found.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            buffer = memoryview(pages)
            for chunk in found.chunks:
                begin = chunk.start - found.start
                view = buffer[begin : begin + chunk.nbytes]
                self.places[chunk.tensor, chunk.part, chunk.input] = (chunk.offset, view)
            for begin in range(0, found.nbytes, MAX_REQUEST):
                part = buffer[begin : begin + MAX_REQUEST]
                self.requests.append(_Request(self, found.origin, found.start + begin, part))
        self.missing = len(self.requests)


class _Request(NamedTuple):
    held: _Held
    origin: Origin
    start: int
    buffer: memoryview


class Prefetch:
    """Fetches windows in the background, within a budget, and hands out their bytes.

    Tensors must be merged in the order of the windows, and the slices of one in order: then the first window that is
    not done with is always in memory or next to be admitted, and no wait lasts forever.

    Args:
        windows: to begin with
        read: fills a buffer with bytes from an offset on (origin, start, buffer), from several threads
        budget: in bytes; a window that is larger is held alone
        threads: that fetch at a time
    """

    def __init__(
        self,
        windows: Iterator[Window],
        read: Callable[[Origin, int, memoryview], None],
        *,
        budget: int,
        threads: int,
    ):
        self._windows = windows
        self._next = next(windows, None)
        self._read = read
        self._budget = budget
        self._used = 0
        self._requests: deque[_Request] = deque()
        self._held: dict[tuple[int, int], _Held] = {}
        self._error: Exception | None = None
        self._stopped = False
        self._changed = threading.Condition()
        # Daemons: a process that was told to stop does not wait for a host that stalls.
        self._threads = [
            threading.Thread(target=self._fetch, name=f"read-{i}", daemon=True) for i in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def stop(self) -> None:
        """End all waiting, and begin no further request."""
        with self._changed:
            self._stopped = True
            self._requests.clear()
            self._changed.notify_all()

    def extend(self, windows: Iterator[Window]) -> None:
        """Fetch more, behind what there is already; its output tensors have numbers of their own."""
        with self._changed:
            self._windows = chain(self._windows, windows)
            self._next = self._next or next(self._windows, None)
            self._changed.notify_all()

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._used

    def tensor(self, number: int) -> TensorReader:
        """The inputs of an output tensor, which windows hold."""
        return TensorReader(self, number)

    def take(self, tensor: int, part: int) -> _Held:
        """Wait for the window that holds a part of a tensor.

        Raises:
            CheckpointError: reading failed, here or for an earlier window
            Cancelled: `stop` was called
        """
        with self._changed:
            while True:
                held = self._held.get((tensor, part))
                if held and not held.missing:
                    return held
                if self._error:
                    raise self._error
                if self._stopped:
                    raise Cancelled
                self._changed.wait()

    def release(self, tensor: int, part: int) -> None:
        """Give back a part of a tensor that is merged."""
        with self._changed:
            held = self._held.pop((tensor, part))
            held.users -= 1
            if not held.users:
                self._used -= held.nbytes
                self._changed.notify_all()

    # -- threads ---------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        try:
            while request := self._next_request():
                self._read(request.origin, request.start, request.buffer)
                with self._changed:
                    request.held.missing -= 1
                    if not request.held.missing:
                        self._changed.notify_all()
                    # Within the lock: else this thread could hold the window's memory when it is merged already.
                    del request
        except Exception as error:  # of any kind: whatever waits for the bytes has to hear of it
            with self._changed:
                self._error = self._error or error
            self.stop()

    def _next_request(self) -> _Request | None:
        with self._changed:
            while not self._stopped:
                if self._requests:
                    return self._requests.popleft()
                if self._next and (not self._used or self._used + self._next.nbytes <= self._budget):
                    self._admit(self._next)
                    self._next = next(self._windows, None)
                else:
                    self._changed.wait()
        return None

    def _admit(self, window: Window) -> None:
        held = _Held(window)
        self._used += window.nbytes
        self._held.update(dict.fromkeys(window.parts, held))
        self._requests.extend(held.requests)
        held.requests.clear()  # they refer to it, and its memory has to go when the last part is merged
        self._changed.notify_all()


class TensorReader:
    """The bytes of one output tensor's inputs; leaving it gives back what it holds.

    A tensor in slices can be read once, all inputs side by side; one in a single part as often as needed.
    """

    def __init__(self, prefetch: Prefetch, number: int):
        self._prefetch = prefetch
        self._number = number
        self._part = -1
        self._held: _Held | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def read(self, index: int, start: int, buffer: memoryview) -> None:
        """Fill a buffer with bytes of an input from an offset on; it must not cross the border of two slices."""
        while True:
            if self._held is None:
                self._part += 1
                self._held = self._prefetch.take(self._number, self._part)
            offset, view = self._held.places[self._number, self._part, index]
            if start < offset + len(view):
                buffer[:] = view[start - offset : start - offset + len(buffer)]
                return
            self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held = None
            self._prefetch.release(self._number, self._part)

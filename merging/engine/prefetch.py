"""Reading ahead of the merge: what comes over a network, fetched in the order in which it will be merged.

A request takes a round trip however little it brings, so what lies together in a file comes in one. A budget
bounds the bytes that are held. It admits a step as a whole: admitted one by one, the pieces of one model could
fill it while the merge waits for those of another, and both would wait for ever.
"""

from __future__ import annotations

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
from merging.planning.costs import RESIDENT, SLICE, STEP

if TYPE_CHECKING:
    from checkpoints import TensorHeader
    from merging.plan import Input, PlannedTensor

# Bytes between two pieces of a file that are read along with them: less than a round trip is worth.
GAP = 64 * 1024
# Bytes that one request asks for at most; what is longer comes in several, at the same time.
RANGE = 16 * 1024 * 1024
# Seconds that the end waits for requests under way, when nobody needs them any more.
PATIENCE = 1.0


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


class Piece(NamedTuple):
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


class Stretch:
    """Pieces of one origin that are close together, from `start` up to `end`."""

    def __init__(self, piece: Piece):
        self.origin, self.start = piece.origin, piece.start
        self.end = piece.start + piece.nbytes
        self.pieces = [piece]

    def takes(self, piece: Piece) -> bool:
        """Whether the next piece is near enough; it then belongs to the stretch."""
        if self.origin != piece.origin or piece.start > self.end + GAP:
            return False
        self.end = max(self.end, piece.start + piece.nbytes)
        self.pieces.append(piece)
        return True

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class Step:
    """Pieces that are admitted, fetched and dropped together."""

    def __init__(self, pieces: Sequence[Piece]):
        self.parts = {(piece.tensor, piece.part) for piece in pieces}
        self.stretches: list[Stretch] = []
        for piece in sorted(pieces, key=lambda piece: (piece.origin, piece.start)):
            if not self.stretches or not self.stretches[-1].takes(piece):
                self.stretches.append(Stretch(piece))
        self.nbytes = sum(stretch.nbytes for stretch in self.stretches)


# The header of an input that comes over a network; None for one that does not.
Find = Callable[["Input"], "TensorHeader | None"]


def goes_ahead(tensor: PlannedTensor, find: Find, rereads: bool) -> bool:
    """Whether what a tensor takes from the network is read ahead.

    A method that passes over its inputs more than once needs them whole, and what is too large for that the
    merge reads itself, in each pass anew.
    """
    size = sum(header.nbytes for part in tensor.inputs if (header := find(part)))
    return size > 0 and (size <= RESIDENT or not rereads or tensor.copied_from is not None)


def steps(tensors: Iterable[PlannedTensor], find: Find, rereads: bool, first: int = 0) -> Iterator[Step]:
    """Cut what a plan reads ahead into steps, in the order of the output: small tensors in groups, large ones
    in slices, and whole ones for a method that rereads them. The output tensors are numbered from `first` on."""
    group: list[Piece] = []
    size = 0
    for number, tensor in enumerate(tensors, first):
        if not goes_ahead(tensor, find, rereads):
            continue
        inputs = [
            (i, _origin(part, header), header)
            for i, part in enumerate(tensor.inputs)
            if (header := find(part))
        ]
        total = sum(header.nbytes for _, _, header in inputs)
        if group and size + total > STEP:
            yield Step(group)
            group, size = [], 0
        is_whole = total <= STEP or (rereads and tensor.copied_from is None)
        count = tensor.elements if is_whole else SLICE
        for part, first in enumerate(range(0, tensor.elements, count)):
            for index, origin, header in inputs:
                width = itemsize(header.dtype)
                offset, nbytes = first * width, min(count, tensor.elements - first) * width
                group.append(Piece(number, part, index, offset, origin, header.start + offset, nbytes))
            if total > STEP:
                yield Step(group)
                group = []
            else:
                size += total
    if group:
        yield Step(group)


def _origin(part: Input, header: TensorHeader) -> Origin:
    return Origin(part.model, header.file) if header.file else Origin(part.model, tensor=part.tensor)


class _Held:
    """A step in memory: complete when no request is missing, dropped when no part uses it any more."""

    def __init__(self, step: Step):
        self.nbytes = step.nbytes
        self.users = len(step.parts)
        self.requests: list[_Request] = []
        self.places: dict[tuple[int, int, int], tuple[int, memoryview]] = {}
        for stretch in step.stretches:
            # Pages of its own, which go back to the system with it: from the heap, pieces of a few MB by and by
            # leave hundreds of MB of holes.
            pages = mmap.mmap(-1, stretch.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            buffer = memoryview(pages)
            for piece in stretch.pieces:
                begin = piece.start - stretch.start
                view = buffer[begin : begin + piece.nbytes]
                self.places[piece.tensor, piece.part, piece.input] = (piece.offset, view)
            for begin in range(0, stretch.nbytes, RANGE):
                part = buffer[begin : begin + RANGE]
                self.requests.append(_Request(self, stretch.origin, stretch.start + begin, part))
        self.missing = len(self.requests)


class _Request(NamedTuple):
    held: _Held
    origin: Origin
    start: int
    buffer: memoryview


class ReadAhead:
    """Fetches steps in the background, within a budget, and hands out their bytes.

    Whoever merges must take tensors in the order of the steps, and the slices of one in order: then the first
    step that is not done with is always in memory or next to be admitted, and nobody waits for ever.

    Args:
        steps: from `steps`
        read: fills a buffer with bytes from an offset on (origin, start, buffer), from several threads
        budget: bytes that are held at most; a step that is larger is held alone
        threads: that fetch at a time
    """

    def __init__(
        self,
        steps: Iterator[Step],
        read: Callable[[Origin, int, memoryview], None],
        *,
        budget: int,
        threads: int,
    ):
        self._steps = steps
        self._next = next(steps, None)
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
        patience = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(patience - time.monotonic(), 0))

    def stop(self) -> None:
        """Let nobody wait any longer, and begin no further request."""
        with self._changed:
            self._stopped = True
            self._requests.clear()
            self._changed.notify_all()

    def extend(self, steps: Iterator[Step]) -> None:
        """Fetch more, behind what there is already; its output tensors have numbers of their own."""
        with self._changed:
            self._steps = chain(self._steps, steps)
            self._next = self._next or next(self._steps, None)
            self._changed.notify_all()

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._used

    def tensor(self, number: int) -> TensorReader:
        """The inputs of an output tensor, which steps hold."""
        return TensorReader(self, number)

    def take(self, tensor: int, part: int) -> _Held:
        """Wait for the step that holds a part of a tensor.

        Raises:
            CheckpointError: reading failed, here or for an earlier step
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
        """Say that a part of a tensor is merged."""
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
                    # Within the lock: else this thread could hold the step's memory when it is merged already.
                    del request
        except Exception as error:  # of any kind: who waits for the bytes has to hear of it
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
                    self._next = next(self._steps, None)
                else:
                    self._changed.wait()
        return None

    def _admit(self, step: Step) -> None:
        held = _Held(step)
        self._used += step.nbytes
        self._held.update(dict.fromkeys(step.parts, held))
        self._requests.extend(held.requests)
        held.requests.clear()  # they refer to it, and its memory has to go when the last part is merged
        self._changed.notify_all()


class TensorReader:
    """The bytes of one output tensor's inputs; leaving it gives back what it holds.

    A tensor in slices can be read once, all inputs side by side; one in a single part as often as needed.
    """

    def __init__(self, ahead: ReadAhead, number: int):
        self._ahead = ahead
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
                self._held = self._ahead.take(self._number, self._part)
            offset, view = self._held.places[self._number, self._part, index]
            if start < offset + len(view):
                buffer[:] = view[start - offset : start - offset + len(buffer)]
                return
            self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held = None
            self._ahead.release(self._number, self._part)

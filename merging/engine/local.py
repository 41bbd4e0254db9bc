"""Making shards on this machine: begun in order, several under way at a time, so that no worker waits for the next."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from checkpoints.problems import Cancelled
from merging.destinations import Receipt
from merging.engine.engine import PULSE, Merge
from merging.engine.shard import Pool, make_shard
from merging.plan import PlannedShard, PlannedTensor

# Seconds that a merge which is to stop waits for its threads; one may be reading from a host that stalls.
STOP_SECONDS = 1.5


@dataclass(frozen=True)
class _Event:
    """What became of a shard.

    Args:
        filename: of the shard
        what: "began", "filled" or "lost", see `Watch`; its receipt when it has arrived; or why it has not
    """

    filename: str
    what: str | Receipt | BaseException


class _Watch:
    """Counts tensors, and reports how far a shard is."""

    def __init__(self, merge: Merge, events: queue.SimpleQueue[_Event]):
        self._merge = merge
        self._events = events

    def began(self, shard: PlannedShard) -> None:
        self._events.put(_Event(shard.filename, "began"))

    def merged(self, shard: PlannedShard, tensor: PlannedTensor) -> None:
        self._merge.meter.merged(shard, tensor)

    def filled(self, shard: PlannedShard) -> None:
        self._events.put(_Event(shard.filename, "filled"))

    def lost(self, shard: PlannedShard) -> None:
        self._merge.meter.lost(shard)
        self._events.put(_Event(shard.filename, "lost"))


def make_in_order(merge: Merge, shards: Sequence[PlannedShard], pool: Pool) -> Generator[Receipt, None, None]:
    """Make shards by a pool, each in a thread that waits for its tensors and then for its arrival.

    A shard begins when the tensors of the one before it are queued. There are as many under way as keep every worker
    busy, if the sink has room for them. When one fails, those that are whole are still sent, and the others end.
    """
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    watch = _Watch(merge, events)
    waiting = deque(shards)
    threads: list[threading.Thread] = []
    running, may_begin = 0, True
    whole: set[str] = set()  # shards that are being sent, or wait for it
    errors: list[BaseException] = []
    for shard in shards:
        merge.kind.check(pool.processor_of(shard))

    def make(shard: PlannedShard) -> None:
        try:
            events.put(_Event(shard.filename, make_shard(shard, merge.sink, pool, watch)))
        except BaseException as error:
            events.put(_Event(shard.filename, error))

    is_complete = False
    try:
        while whole if errors else waiting or running:
            if not errors and waiting and may_begin and running <= merge.workers:
                # A daemon: a process that was told to stop does not wait for a host that stalls.
                thread = threading.Thread(target=make, args=(waiting.popleft(),), name="shard", daemon=True)
                thread.start()
                threads.append(thread)
                running, may_begin = running + 1, False
            for event in _next_events(events):
                if event.what == "began":
                    may_begin = True
                elif event.what == "filled":
                    whole.add(event.filename)
                else:
                    whole.discard(event.filename)
                    running -= event.what != "lost"
                if isinstance(event.what, Receipt):
                    yield event.what
                elif isinstance(event.what, BaseException):
                    pool.interrupt()
                    errors.append(event.what)
            merge.pulse()
        is_complete = not errors
    finally:
        if not is_complete:
            merge.stopped.set()
            pool.interrupt()
            join_soon(threads)
    if is_complete:
        return
    # What arrived nevertheless is not lost.
    while not events.empty():
        if isinstance(end := events.get().what, Receipt):
            yield end
        elif isinstance(end, BaseException):
            errors.append(end)
    # A worker that fails stops the others, which then say that they were cancelled: that is not the reason.
    raise min(errors, key=lambda error: isinstance(error, Cancelled))


def _next_events(events: queue.SimpleQueue[_Event]) -> Iterator[_Event]:
    """The events that there are, or come within a pulse."""
    try:
        yield events.get(timeout=PULSE)
        while True:
            yield events.get_nowait()
    except queue.Empty:
        return


def join_soon(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads, but not for long."""
    deadline = time.monotonic() + STOP_SECONDS
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))

"""Shards made by threads of this process: for everything that waits for a network, and for graphics cards."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from checkpoints import Checkpoint
from checkpoints.heap import keep_heap
from checkpoints.lru_cache import LruCache
from checkpoints.problems import Cancelled
from checkpoints.torch_threads import one_torch_thread
from merging.destinations import Receipt, ShardWriter
from merging.engine import prefetch
from merging.engine.engine import Merge
from merging.engine.local import join_soon, make_in_order
from merging.engine.prefetch import READERS, Origin, Prefetch, TensorReader, is_prefetched, rereads, windows
from merging.engine.processor import processor_of
from merging.engine.shard import Merged
from merging.engine.tensors import Buffers, Check, merge_tensor
from merging.plan import Input, Plan, PlannedModel, PlannedShard, PlannedTensor

if TYPE_CHECKING:
    from checkpoints import TensorHeader


class Threads:
    """The engine of threads.

    Args:
        reads: keeps what is read over a network, for other merges that read the same
    """

    name = "threads"

    def __init__(self, reads: LruCache[bytes] | None = None):
        self._reads = reads

    def suits(self, merge: Merge, shards: Sequence[PlannedShard]) -> bool:
        return True

    def run(self, merge: Merge, shards: Sequence[PlannedShard]) -> Generator[Receipt, None, None]:
        models = merge.models.opened()
        keep_heap()
        with (
            nullcontext() if merge.plan.only_copies else one_torch_thread(),
            ThreadPool(merge.plan, models, merge.device, merge.workers, merge.check, self._reads) as pool,
        ):
            yield from make_in_order(merge, shards, pool)


class _Task(NamedTuple):
    """A tensor that is to be merged, and where its end is reported."""

    tensor: PlannedTensor
    writer: ShardWriter
    offset: int
    prefetched: TensorReader | None
    done: queue.SimpleQueue[Merged | BaseException]


class ThreadPool:
    """Threads that merge tensors in the order in which they are queued, and prefetch what comes over a network.

    Args:
        plan, models: what they merge; all models are open
        device: that computes
        workers: how many threads
        check: raises when the work is to stop
        reads: see `Threads`
    """

    def __init__(
        self,
        plan: Plan,
        models: Sequence[Checkpoint],
        device: str,
        workers: int,
        check: Check,
        reads: LruCache[bytes] | None = None,
    ):
        self._plan = plan
        self._shared = reads
        self._models = models
        self._device = device
        self._check_run = check
        self._interrupted = threading.Event()
        self._rereads = rereads(plan)
        self._queueing = threading.Lock()  # tensors are queued in the order in which their inputs are fetched
        self._queued = 0
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        readers = READERS if any(model.is_remote for model in models) else 0
        self._prefetch = Prefetch(iter(()), self._read, budget=prefetch.held(plan), threads=readers)
        # Daemons: a process that was told to stop does not wait for a host that stalls.
        self._threads = [
            threading.Thread(target=self._work, name=f"merge_{i}", daemon=True) for i in range(workers)
        ]

    def __enter__(self) -> Self:
        self._prefetch.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        join_soon(self._threads)
        self._prefetch.__exit__(kind, error, trace)

    def fill(self, shard: PlannedShard, writer: ShardWriter) -> Iterator[Merged]:
        done: queue.SimpleQueue[Merged | BaseException] = queue.SimpleQueue()
        with self._queueing:
            first = self._queued
            self._queued += len(shard.tensors)
            self._prefetch.extend(windows(shard.tensors, self._find, self._rereads, first))
            for number, (tensor, offset) in enumerate(shard.places(), first):
                ahead = is_prefetched(tensor, self._find, self._rereads)
                reader = self._prefetch.tensor(number) if ahead else None
                self._tasks.put(_Task(tensor, writer, offset, reader, done))
        return self._finished(len(shard.tensors), done)

    @staticmethod
    def _finished(count: int, done: queue.SimpleQueue[Merged | BaseException]) -> Iterator[Merged]:
        for _ in range(count):
            end = done.get()
            if isinstance(end, BaseException):
                raise end
            yield end

    def read_by(self) -> tuple[str, ...]:
        return tuple(sorted({way for model in self._models for way in model.read_by}))

    def processor_of(self, shard: PlannedShard) -> str:
        return processor_of(self._plan, shard, self._device)

    def interrupt(self) -> None:
        self._interrupted.set()
        self._prefetch.stop()
        for model in self._models:
            model.interrupt()

    # -- threads ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._interrupted.is_set():
            raise Cancelled
        self._check_run()

    def _work(self) -> None:
        buffers = Buffers(self._device)
        while task := self._tasks.get():
            try:
                self._check()
                with task.prefetched or nullcontext():
                    count = merge_tensor(
                        self._plan,
                        task.tensor,
                        self._models,
                        task.writer,
                        task.offset,
                        buffers,
                        self._check,
                        task.prefetched,
                    )
                task.done.put(Merged(task.tensor, count))
            except BaseException as error:
                task.done.put(error)

    def _find(self, part: Input) -> TensorHeader | None:
        model = self._models[part.model]
        return model.tensors[part.tensor] if model.is_remote else None

    def _read(self, origin: Origin, start: int, buffer: memoryview) -> None:
        model = self._models[origin.model]
        if origin.file and self._shared is not None and _is_plain(self._plan.models[origin.model]):
            planned = self._plan.models[origin.model]
            key = f"{planned.name}@{planned.version}/{origin.file}:{start}+{len(buffer)}"
            buffer[:] = self._shared.get(key, lambda: _range(model, origin.file, start, len(buffer)))
        elif origin.file:
            model.read_range(origin.file, start, buffer)
        else:
            model.read_into(origin.tensor, start, buffer)


def _is_plain(model: PlannedModel) -> bool:
    """Whether the ranges of a model's files are those of the repository of its name."""
    return not (model.adapters or model.made_by or model.generated)


def _range(model: Checkpoint, file: str, start: int, length: int) -> bytes:
    found = bytearray(length)
    model.read_range(file, start, memoryview(found))
    return bytes(found)

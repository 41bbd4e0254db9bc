"""Shards made by processes, forked from this one when it runs alone and everything is on this machine's disk.

Threads of one Python take turns: the arithmetic runs beside them, but each hand-over costs about as much as a block's
arithmetic does, and two threads were seen to be hardly faster than one. Processes do not wait for each other.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from types import TracebackType
from typing import Self

from checkpoints import Checkpoint
from checkpoints.heap import keep_heap
from checkpoints.problems import Cancelled, MergeError, Problem
from checkpoints.torch_threads import one_torch_thread
from merging.destinations import Receipt, ShardWriter
from merging.engine.engine import Merge
from merging.engine.local import make_in_order
from merging.engine.processor import processor_of
from merging.engine.shard import Merged
from merging.engine.tensors import Buffers, merge_tensor
from merging.plan import Plan, PlannedShard


def can_fork() -> bool:
    """Whether processes may be forked: where that is sound, and no other thread could hold a lock meanwhile."""
    return sys.platform == "linux" and threading.active_count() == 1


class Processes:
    """The engine of processes."""

    name = "processes"

    def suits(self, merge: Merge, shards: Sequence[PlannedShard]) -> bool:
        is_here = merge.sink.crosses_processes and not any(model.is_remote for model in merge.plan.models)
        is_here = is_here and not merge.plan.computes_gates  # torch has begun threads of its own for them
        return is_here and merge.device == "cpu" and merge.workers > 1 and can_fork()

    def run(self, merge: Merge, shards: Sequence[PlannedShard]) -> Generator[Receipt, None, None]:
        models = merge.models.opened()
        keep_heap()
        with (
            nullcontext() if merge.plan.only_copies else one_torch_thread(),
            ProcessPool(merge.plan, models, merge.workers) as pool,
        ):
            yield from make_in_order(merge, shards, pool)


class ProcessPool:
    """Processes that merge tensors in the order in which they are queued.

    Args:
        plan, models: what they merge; all models are open, and folders
        workers: how many processes
    """

    def __init__(self, plan: Plan, models: Sequence[Checkpoint], workers: int):
        self._plan = plan
        self._models = models
        self._numbers = {shard.filename: number for number, shard in enumerate(plan.shards)}
        self._is_stopped = False
        if not plan.only_copies:
            import merging.engine.blocks  # noqa: F401 (once, before there are several processes)
        gc.freeze()  # the collector would touch, and so copy, every page of the processes' common memory
        before = set(multiprocessing.active_children())
        # What a forked process is given is not pickled.
        context = multiprocessing.get_context("fork")
        self._executor = ProcessPoolExecutor(workers, context, _begin, (plan, models))
        self._executor.submit(_nothing).result()  # forks them all, before this process has other threads
        self._children = [child for child in multiprocessing.active_children() if child not in before]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.interrupt()
        self._executor.shutdown(cancel_futures=True)
        gc.unfreeze()

    def fill(self, shard: PlannedShard, writer: ShardWriter) -> Iterator[Merged]:
        number = self._numbers[shard.filename]
        tasks = [
            self._executor.submit(_merge, number, index, offset, writer)
            for index, (_, offset) in enumerate(shard.places())
        ]
        return self._finished(shard, tasks)

    def _finished(self, shard: PlannedShard, tasks: list[Future[tuple[int, int]]]) -> Iterator[Merged]:
        try:
            for task in as_completed(tasks):
                index, count = task.result()
                yield Merged(shard.tensors[index], count)
        except BrokenProcessPool:
            if self._is_stopped:
                raise Cancelled from None
            raise self._killed() from None

    def _killed(self) -> MergeError:
        """That a process was killed, and by what."""
        for child in self._children:
            child.join(1)
        # The executor terminates the others.
        ends = [-child.exitcode for child in self._children if child.exitcode and child.exitcode < 0]
        number = next((end for end in ends if end != signal.SIGTERM), signal.SIGTERM)
        return MergeError(Problem("killed", {"signal": signal.Signals(number).name}))

    def read_by(self) -> tuple[str, ...]:
        return tuple(sorted({way for model in self._models for way in model.read_by}))

    def processor_of(self, shard: PlannedShard) -> str:
        return processor_of(self._plan, shard, "cpu")

    def interrupt(self) -> None:
        self._is_stopped = True
        for child in self._children:
            child.kill()


# -- in a forked process -------------------------------------------------------------------------------------


class _State:
    """What a process was forked with, and its buffers."""

    plan: Plan
    models: Sequence[Checkpoint]
    buffers: Buffers


def _begin(plan: Plan, models: Sequence[Checkpoint]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _State.plan, _State.models, _State.buffers = plan, models, Buffers("cpu")


def _nothing() -> None:
    """A task that ends at once."""


def _merge(shard: int, tensor: int, offset: int, writer: ShardWriter) -> tuple[int, int]:
    """Merge a tensor of a shard; returns its index there, and what `merge_tensor` does."""
    planned = _State.plan.shards[shard].tensors[tensor]
    count = merge_tensor(_State.plan, planned, _State.models, writer, offset, _State.buffers, _nothing)
    return tensor, count

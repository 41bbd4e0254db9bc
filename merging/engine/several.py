"""Several merges at a time. Shards that come at the same place in their plans are made together, so that what they read
over a network is fetched once."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from checkpoints.lru_cache import LruCache
from checkpoints.problems import MergeError
from merging.destinations import Receipt
from merging.engine.engine import PULSE, Merge
from merging.engine.result import Progress, Result
from merging.engine.run import run_plan
from merging.engine.threads import Threads
from merging.engine.workspace import default_workers
from merging.plan import Plan, PlannedShard
from merging.result_card import Licence

# Bytes that were read and may be wanted by another merge.
SHARED = 512 * 1024 * 1024


def run_plans(
    merges: Sequence[tuple[Plan, str]],
    *,
    licences: Sequence[Licence | None] | None = None,
    workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> list[Result | MergeError]:
    """Run several plans together, as `run_plan` does each.

    >>> run_plans([(plan, "one"), (other_plan, "two")])  # doctest: +SKIP

    Args:
        merges: plans and their destinations
        licences: of the results, in the same order, see `run_plan`
        workers: how many merge at a time, of all plans; None: as many as there are cores
        on_progress: called with the sum of all, from several threads but never from two at a time
        options: of `run_plan`, for all of them

    Returns:
        In the same order, each result, or why there is none: one that fails does not stop the others.
    """
    cancel = cancel or threading.Event()
    steps, reads = _Steps(len(merges)), LruCache[bytes](SHARED, len)
    share = max(1, (workers or default_workers()) // len(merges))
    total = _Sum([plan for plan, _ in merges], on_progress)

    def run(number: int) -> Result | MergeError:
        plan, to = merges[number]
        try:
            engine = _InStep(number, steps, reads)
            watch = total.of(number)
            return run_plan(
                plan,
                to,
                licence=licences[number] if licences else None,
                workers=share,
                on=engine,
                on_progress=watch,
                cancel=cancel,
                **options,
            )
        except MergeError as error:
            return error
        except BaseException:
            cancel.set()
            raise
        finally:
            steps.leave(number)

    with ThreadPoolExecutor(len(merges), "merge") as threads:
        futures = [threads.submit(run, number) for number in range(len(merges))]
        try:
            return [future.result() for future in futures]
        except BaseException:
            cancel.set()
            raise


class _Steps:
    """Keeps merges from running away from each other: none begins a shard before all have begun the one before it."""

    def __init__(self, count: int):
        self._at: list[float] = [-1] * count
        self._changed = threading.Condition()

    def reach(self, number: int, step: int, pulse: Callable[[], None]) -> None:
        """Wait for the others; `pulse` is called meanwhile and raises to stop."""
        with self._changed:
            self._at[number] = step - 1
            self._changed.notify_all()
            while min(self._at) < step - 1:
                self._changed.wait(PULSE)
                pulse()
            self._at[number] = step
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        """Let no one wait for a merge any longer."""
        with self._changed:
            self._at[number] = math.inf
            self._changed.notify_all()


class _InStep:
    """The engine of threads, a shard at a time, beside those of other merges."""

    name = "in step"

    def __init__(self, number: int, steps: _Steps, reads: LruCache[bytes]):
        self._number = number
        self._steps = steps
        self._threads = Threads(reads)

    def suits(self, merge: Merge, shards: Sequence[PlannedShard]) -> bool:
        return True

    def run(self, merge: Merge, shards: Sequence[PlannedShard]) -> Generator[Receipt, None, None]:
        places = {shard.filename: place for place, shard in enumerate(merge.plan.shards)}
        for shard in shards:
            self._steps.reach(self._number, places[shard.filename], merge.pulse)
            yield from self._threads.run(merge, [shard])


class _Sum:
    """The progress of several merges as one."""

    def __init__(self, plans: Sequence[Plan], report: Callable[[Progress], None] | None):
        self._report = report
        self._lock = threading.Lock()
        self._parts = [Progress("start", 0, plan.bytes_out, 0, len(plan.tensors), "") for plan in plans]

    def of(self, number: int) -> Callable[[Progress], None] | None:
        if self._report is None:
            return None

        def watch(progress: Progress) -> None:
            with self._lock:
                self._parts[number] = progress
                assert self._report
                self._report(
                    Progress(
                        progress.phase,
                        sum(part.bytes_done for part in self._parts),
                        sum(part.bytes_total for part in self._parts),
                        sum(part.tensors_done for part in self._parts),
                        sum(part.tensors_total for part in self._parts),
                        progress.message,
                    )
                )

        return watch

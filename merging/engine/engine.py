"""An engine decides who makes the shards of a plan: threads, processes, or machines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from checkpoints import Token
from checkpoints.problems import Cancelled
from merging.destinations import Receipt, Sink
from merging.engine.models import Located, Models
from merging.engine.processor import OneKind
from merging.engine.result import Meter
from merging.plan import Plan, PlannedShard

# Seconds between two looks at what the caller wants.
PULSE = 0.1


class Merge:
    """A merge under way, as engines are given it.

    Args:
        plan: without problems
        token: whose access to the Hub to use
        device: that computes
        workers: how many merge at a time on this machine
        meter: counts what is merged
        cancelled: set by the caller, to stop
        located: where the models are, if that is known

    Attributes:
        sink: takes the shards
        held: bytes that the destination holds while a plan is run, see `Destination.held`
        models: the plan's, opened when they are first asked for
        kind: of processor that computes its files
        stopped: set when a part of it failed, so that the others end as well
        message: reported while merging
    """

    def __init__(
        self,
        plan: Plan,
        token: Token,
        device: str,
        workers: int,
        meter: Meter,
        cancelled: threading.Event | None = None,
        located: Sequence[Located] | None = None,
    ):
        self.plan = plan
        self.token = token
        self.device = device
        self.workers = workers
        self.meter = meter
        self.models = Models(plan, token, self.check, located)
        self.sink: Sink
        self.held: Callable[[Plan], int] = lambda plan: 0
        self.kind = OneKind()
        self.stopped = threading.Event()
        self.message = ""
        self._cancelled = cancelled or threading.Event()
        self._due = 0.0

    def memory(self, shards: Sequence[PlannedShard]) -> int:
        """Bytes that making some of the shards takes at most, in a process of its own."""
        plan = self.plan
        return plan.peak_memory_bytes - self.held(plan) + self.held(plan.cut(shards))

    def check(self) -> None:
        """Raise where work is to stop; for workers."""
        if self._cancelled.is_set() or self.stopped.is_set():
            raise Cancelled

    def report(self, phase: str, message: str) -> None:
        """Report progress; for the calling thread.

        Raises:
            Cancelled: the caller wants to stop.
        """
        # Not check(): it would hide the error of a worker behind the stop that the error caused.
        if self._cancelled.is_set():
            raise Cancelled
        self.meter.report(phase, message)

    def pulse(self) -> None:
        """Report progress while merging, ten times a second at most; for the calling thread.

        Raises:
            Cancelled: the caller wants to stop.
        """
        if self._cancelled.is_set() or time.monotonic() >= self._due:
            self._due = time.monotonic() + PULSE
            self.report("merge", self.message)


class Engine(Protocol):
    """Makes shards. One that has workers on other machines gives them what `task.make_task` returns, and a token."""

    name: str

    def suits(self, merge: Merge, shards: Sequence[PlannedShard]) -> bool:
        """Whether it can make these shards of a merge here and now."""

    def run(self, merge: Merge, shards: Sequence[PlannedShard]) -> Generator[Receipt, None, None]:
        """Make shards; yields a receipt for each as it arrives.

        Calls `merge.pulse` ten times a second from the calling thread, counts tensors or shards with `merge.meter`, and
        ends all workers before it raises.

        Raises:
            MergeError: as a worker raised it, or that a worker was killed
            Cancelled: `merge.pulse` raised it
        """

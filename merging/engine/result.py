"""How far a merge is, and what it came to."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints.problems import Problem
from checkpoints.wording import few
from merging.destinations import ResultPlace
from merging.plan import Plan, PlannedShard, PlannedTensor


@dataclass(frozen=True)
class Progress:
    """How far a merge is.

    Args:
        phase: "read headers", "approximate", "merge", "upload" or "finish"
        bytes_done, bytes_total: of output weights merged
        tensors_done, tensors_total: output tensors merged
        message: what is being done, in words
    """

    phase: str
    bytes_done: int
    bytes_total: int
    tensors_done: int
    tensors_total: int
    message: str


@dataclass(frozen=True)
class Result:
    """A finished merge.

    Args:
        location: a folder, `hf://owner/name`, or an address in an object store or a bucket
        url: its page on the Hub, if it has one
        commit: on the Hub, if it is there
        bytes_out: size of its weights
        seconds: that the merge took
        verified: whether the Hub or the store was asked afterwards what it holds, and that is what was sent
        read_by: how weights were read, see `Receipt`
        written_by: how they were written, see `Receipt`
        not_finite: how many numbers are infinite or NaN, by tensor; those without are left out. Files that the Hub
            copied from a parent are not looked into
        gguf: where its GGUF files are, if they are in a place of their own
    """

    location: str
    url: str | None
    commit: str | None
    bytes_out: int
    seconds: float
    verified: bool = False
    read_by: tuple[str, ...] = ()
    written_by: tuple[str, ...] = ()
    not_finite: Mapping[str, int] = field(default_factory=dict, hash=False)
    gguf: ResultPlace | None = None

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What the user should know of the numbers."""
        return (Problem("not-finite", about_not_finite(self.not_finite)),) if self.not_finite else ()


def about_not_finite(counts: Mapping[str, int]) -> dict[str, Any]:
    """The values of a problem about numbers that are infinite or NaN, the tensors with the most of them first."""
    names = sorted(counts, key=lambda name: -counts[name])
    return {
        "count": sum(counts.values()),
        "total": len(names),
        "tensors": few([f"{name} ({counts[name]:,})" for name in names]),
    }


class Meter:
    """Counts the tensors that are merged, from several threads, and reports them."""

    def __init__(self, plan: Plan, on_progress: Callable[[Progress], None] | None):
        self._plan = plan
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done: defaultdict[str, set[str]] = defaultdict(set)  # names of tensors by shard
        self._bytes = {tensor.name: tensor.bytes for tensor in plan.tensors}

    def merged(self, shard: PlannedShard, tensor: PlannedTensor) -> None:
        """Count a tensor."""
        with self._lock:
            self._done[shard.filename].add(tensor.name)

    def finished(self, shard: PlannedShard) -> None:
        """Count all tensors of a shard."""
        with self._lock:
            self._done[shard.filename] = {tensor.name for tensor in shard.tensors}

    def lost(self, shard: PlannedShard) -> None:
        """Count none of the tensors of a shard, which is made again."""
        with self._lock:
            self._done.pop(shard.filename, None)

    def report(self, phase: str, message: str) -> None:
        if self._on_progress is None:
            return
        with self._lock:
            done = [name for names in self._done.values() for name in names]
        nbytes = sum(self._bytes[name] for name in done)
        count = len(self._plan.tensors)
        self._on_progress(Progress(phase, nbytes, self._plan.bytes_out, len(done), count, message))

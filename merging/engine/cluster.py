"""Shards made by the machines of a cluster. They send files; what they made is admitted and published here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from checkpoints import Token
from checkpoints.cluster import Call, Calls, Cluster, ClusterError, check_size
from checkpoints.problems import Cancelled, MergeError, Problem
from checkpoints.ray_cluster import RayCluster
from merging.destinations import Receipt
from merging.destinations.receipt import ANY
from merging.engine.engine import Merge
from merging.engine.processor import processor_kind
from merging.engine.task import Task, make_shards, make_task
from merging.plan import PlannedShard

# Shards that a machine is given at a time: one is sent while the next is made.
SHARDS_A_CALL = 5
# Receipts are handed on this many at a time, or after as many seconds: on the Hub each handful is a commit.
RECEIPTS, SECONDS = 16, 30.0


class ClusterEngine:
    """Makes shards by calls to a cluster.

    A call that is lost is made again, without the shards whose receipts arrived. The first machine that answers decides
    which kind of processor computes; others refuse before they send a byte, and so do machines with other software.

    Args:
        cluster: that runs them
        shards: in a call at most
        token: which machines are to use; None: the merge's, or their own login where that has none
    """

    def __init__(self, cluster: Cluster, *, shards: int = SHARDS_A_CALL, token: Token = None):
        self.cluster = cluster
        self.name = cluster.name
        self.shards = shards
        self.token = token

    def suits(self, merge: Merge, shards: Sequence[PlannedShard]) -> bool:
        return merge.sink.to_data() is not None

    def run(self, merge: Merge, shards: Sequence[PlannedShard]) -> Generator[Receipt, None, None]:
        if not self.suits(merge, shards):
            raise MergeError(Problem("nothing-to-hand-out"))
        try:
            yield from self._run(merge, shards)
        except ClusterError as error:
            raise MergeError(error.problems) from error

    def _run(self, merge: Merge, shards: Sequence[PlannedShard]) -> Generator[Receipt, None, None]:
        machines = self.cluster.machines()
        cpus = min(merge.workers, max((machine.cpus for machine in machines), default=merge.workers))
        slots = sum(machine.cpus // cpus for machine in machines) or 1
        size = max(1, min(self.shards, math.ceil(len(shards) / slots)))
        missing = {shard.filename: shard for shard in shards}
        handed: dict[str, Sequence[PlannedShard]] = {}  # by the text of the call

        def call(group: Sequence[PlannedShard]) -> Call:
            found = _call(merge, group, cpus)
            handed[found.text] = group
            return found

        def rest(lost: Call) -> Call | None:
            left = [shard for shard in handed[lost.text] if shard.filename in missing]
            return call(left) if left else None

        groups = [shards[first : first + size] for first in range(0, len(shards), size)]
        for group in groups:
            check_size(_sized(merge, group, cpus), machines)
        calls = Calls(self.cluster, self.token or merge.token, merge.pulse, rest)
        calls.submit(call(groups.pop(0)))  # the others follow when it is known what computes
        arrived: list[Receipt] = []
        due = time.monotonic() + SECONDS
        try:
            with closing(calls.arrivals()) as arrivals:
                for lines in arrivals:
                    for line in lines:
                        receipt = _read(line.text)
                        if receipt is None:
                            merge.kind.check(json.loads(line.text)["processor"])
                            for group in groups:
                                calls.submit(call(group))
                            groups = []
                        elif receipt.filename in missing:
                            merge.meter.finished(missing.pop(receipt.filename))
                            arrived.append(receipt)
                    if len(arrived) >= RECEIPTS or time.monotonic() >= due:
                        yield from _taken(arrived)
                        due = time.monotonic() + SECONDS
        except Cancelled:
            raise
        except Exception:
            # What arrived nevertheless is not lost.
            yield from _taken(arrived)
            raise
        yield from _taken(arrived)


class RayEngine(ClusterEngine):
    """Makes shards by Ray, see `checkpoints.ray_cluster`."""

    def __init__(self, *, shards: int = SHARDS_A_CALL, token: Token = None):
        super().__init__(RayCluster(), shards=shards, token=token)


def _taken(receipts: list[Receipt]) -> Iterator[Receipt]:
    while receipts:
        yield receipts.pop(0)


def _sized(merge: Merge, shards: Sequence[PlannedShard], cpus: int) -> Call:
    """The call for some shards, without its text."""
    more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
    label = shards[0].filename + more
    return Call("merging.engine.cluster:lines", "", label, cpus, merge.memory(shards))


def _call(merge: Merge, shards: Sequence[PlannedShard], cpus: int) -> Call:
    sized = _sized(merge, shards, cpus)
    return Call(sized.function, make_task(merge, shards).to_json(), sized.label, cpus, sized.memory)


def _read(line: str) -> Receipt | None:
    """The receipt in a line; None in the first one, which names the processor."""
    return None if "processor" in line and "filename" not in line else Receipt.from_json(line)


def lines(text: str, token: Token, workers: int) -> Iterator[str]:
    """What a machine does that is given a task: yields its kind of processor, and then receipts, as JSON."""
    task = Task.from_json(text)
    yield json.dumps({"processor": ANY if task.plan.only_copies else processor_kind("cpu")})
    with closing(make_shards(task, token=token, workers=workers)) as made:
        for receipt in made:
            yield receipt.to_json()

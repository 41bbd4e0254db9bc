"""A merge that is made in parts, by processes that know nothing of each other: an array of jobs, a pool of machines.

One process begins it and writes down the work. Each part is made by `make_shards`, and leaves receipts. A last run
takes them, makes what is missing, and publishes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Self

from checkpoints import Token
from checkpoints.problems import DestinationError, MergeError, PlanError, Problem
from merging.destinations import Receipt, open_destination
from merging.engine.engine import Merge
from merging.engine.result import Meter
from merging.engine.task import Task, make_task
from merging.plan import Plan


@dataclass(frozen=True)
class Work:
    """The shards of a merge that are to be made.

    Args:
        merge: the fingerprint of its plan
        task: all these shards
    """

    merge: str
    task: Task

    def to_json(self) -> str:
        return json.dumps({"merge": self.merge, "task": self.task.to_data()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        return cls(data["merge"], Task.from_data(data["task"]))

    def part(self, number: int, count: int) -> Task:
        """One of `count` parts, from 1 on: shards that follow each other. It is empty if there are fewer shards."""
        shards = self.task.plan.shards
        first, end = (len(shards) * index // count for index in (number - 1, number))
        return replace(self.task, plan=self.task.plan.cut(shards[first:end]))


def begin_work(
    plan: Plan,
    to: str,
    *,
    token: Token = None,
    private: bool = True,
    overwrite: bool = False,
    pull_request: bool = False,
) -> Work:
    """Get a destination ready for a merge that is made in parts. What an earlier run left there is no part of the work.

    Args:
        plan: for this destination, without problems
        to, token, private, overwrite, pull_request: see `run_plan`

    Raises:
        PlanError, DestinationError, CheckpointError: see `run_plan`
        MergeError: the merge cannot be made in parts
    """
    if not plan.ok:
        raise PlanError(plan.problems)
    destination = open_destination(
        to, token=token, private=private, overwrite=overwrite, pull_request=pull_request
    )
    if problems := destination.check(plan):
        raise DestinationError(problems)
    merge = Merge(plan, token, "cpu", 1, Meter(plan, None))
    try:
        with closing(merge.models):
            kept = destination.begin(plan, merge.check)
            for receipt in kept.values():
                merge.kind.check(receipt.processor)
            merge.sink = destination.sink
            if merge.sink.to_data() is None:
                raise MergeError(Problem("one-part", {"place": to}, to))
            missing = [shard for shard in plan.shards if shard.filename not in kept]
            return Work(plan.fingerprint, make_task(merge, missing))
    except BaseException:
        destination.abandon(keep=True)
        raise


def receipt_line(merge: str, receipt: Receipt) -> str:
    """A receipt as a line of JSON that names its merge."""
    return json.dumps({"merge": merge, **asdict(receipt)})


def read_receipts(lines: Iterable[str], plan: Plan) -> list[Receipt]:
    """The receipts in lines of JSON; of a shard that was made twice the last one.

    Raises:
        MergeError: a line is none, or belongs to another plan.
    """
    found: dict[str, Receipt] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            merge = data["merge"] if isinstance(data, Mapping) else None
            receipt = Receipt.from_json(line)
        except (ValueError, KeyError, TypeError) as error:
            raise MergeError(Problem("no-receipt", {"line": number})) from error
        if merge != plan.fingerprint:
            raise MergeError(Problem("other-merge", {"line": number}))
        found[receipt.filename] = receipt
    return list(found.values())

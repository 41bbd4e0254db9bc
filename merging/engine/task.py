"""Shards that are made elsewhere: what a worker on another machine is given, and what it does.

A task and the receipts that come back are JSON. No token is in them: a worker has its own, or is given one apart.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from checkpoints import Token
from checkpoints.located import LocatedCheckpoint
from checkpoints.problems import MergeError, Problem
from merging.destinations import Receipt, open_sink
from merging.destinations.receipt import ANY
from merging.engine.approximate import approximate
from merging.engine.engine import Merge
from merging.engine.models import Located, locate_models
from merging.engine.result import Meter
from merging.engine.threads import Threads
from merging.engine.workspace import default_workers
from merging.experts.generated import LocatedRows
from merging.plan import Plan, PlannedShard, software


@dataclass(frozen=True)
class Task:
    """Shards to be made.

    Args:
        plan: cut to the shards
        models: where the plan's are, and what was read of them, as far as the shards need it
        sink: what `open_sink` takes
        software: what the driver computes with; the worker's must be the same
        processor: kind that is to compute them; ANY: whatever the worker has
    """

    plan: Plan
    models: tuple[Located, ...]
    sink: Mapping[str, object]
    software: tuple[str, ...]
    processor: str = ANY

    def to_data(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(replace(self, plan=Plan("", ""))), "plan": self.plan.to_data()}

    def to_json(self) -> str:
        return json.dumps(self.to_data(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_data(json.loads(text))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_data`."""
        return cls(
            Plan.from_data(data["plan"]),
            tuple(_located(part) for part in data["models"]),
            data["sink"],
            tuple(data["software"]),
            data["processor"],
        )


def _located(data: Any) -> Located:
    if isinstance(data, list):
        return tuple(_located(part) for part in data)
    if "rows" in data:
        return LocatedRows(data["rows"])
    return LocatedCheckpoint.from_data(data)


def make_task(merge: Merge, shards: Sequence[PlannedShard]) -> Task:
    """Describe some shards of a merge for a worker elsewhere; its engine must suit the sink, see `Sink.to_data`."""
    sink = merge.sink.to_data()
    assert sink is not None, "this destination can be reached from this process only"
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    models = locate_models(merge.plan, merge.models.opened(), tensors)
    return Task(merge.plan.cut(shards), models, sink, tuple(software()), merge.kind.name)


def make_shards(
    task: Task, *, token: Token = None, device: str = "cpu", workers: int | None = None
) -> Generator[Receipt, None, None]:
    """Make the shards of a task, on this machine; yields a receipt for each that has arrived. Closing the generator
    stops the work.

    Raises:
        MergeError: this machine computes with other software, or on another kind of processor
        CheckpointError, DestinationError: see `make_shard`
    """
    if tuple(software()) != task.software:
        values = {"there": ", ".join(task.software), "here": ", ".join(software())}
        raise MergeError(Problem("other-software", values))
    plan = task.plan
    merge = Merge(plan, token, device, workers or default_workers(), Meter(plan, None), located=task.models)
    merge.kind.check(task.processor)
    merge.sink = open_sink(task.sink, token=token, check=merge.check)
    approximate(merge, merge.models.opened(), plan.shards)
    with closing(merge.models), closing(Threads().run(merge, plan.shards)) as made:
        yield from made

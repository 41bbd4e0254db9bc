"""Approximating rows before the merge begins: all workers need them, and it may take longer than all the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoints import AlignedCheckpoint, Checkpoint
from checkpoints.made_rows import MadeRows
from checkpoints.view import View
from merging.engine.engine import Merge
from merging.intermediate import IntermediateMerge
from merging.plan import PlannedShard, PlannedTensor


def approximate(merge: Merge, models: Sequence[Checkpoint], shards: Sequence[PlannedShard]) -> None:
    """Find what the approximated rows are made of that some shards need.

    Args:
        models: of the merge, opened

    Raises:
        CheckpointError: a model cannot be read
        Cancelled: the caller wants to stop
    """
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    for name, made in _found(models, tensors):

        def report(done: int, total: int, name: str = name) -> None:
            merge.report("approximate", f"Approximating rows of {name}: {done:,} of {total:,}")

        made.make(report, merge.workers, merge.device)


def _found(models: Sequence[Checkpoint], tensors: Sequence[PlannedTensor]) -> Iterator[tuple[str, MadeRows]]:
    """The approximated rows that tensors need, each with the name of its model."""
    needed = dict.fromkeys((part.model, part.tensor) for tensor in tensors for part in tensor.inputs)
    for number, name in needed:
        model = models[number]
        if isinstance(model, AlignedCheckpoint) and name in model.made:
            yield model.name, model.made[name]
    for model in models:
        while isinstance(model, View):
            model = model.own
        if isinstance(model, IntermediateMerge):
            yield from _found(model.models, model.plan.tensors)

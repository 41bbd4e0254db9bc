"""The unit of work: one output file of a plan. One function makes it, and every engine calls that function."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from merging.destinations.destination import LostShardError, ShardWriter, Sink
from merging.destinations.receipt import Receipt
from merging.plan import PlannedShard, PlannedTensor, shard_header


class Merged(NamedTuple):
    """A tensor that is written, and how many of its numbers are infinite or NaN."""

    tensor: PlannedTensor
    not_finite: int = 0


class Pool(Protocol):
    """Workers of one machine, who have the inputs of a plan open."""

    def fill(self, shard: PlannedShard, writer: ShardWriter) -> Iterator[Merged]:
        """Merge the tensors of a shard into its file, behind the header.

        They are queued at once, behind those of earlier calls, and yielded one by one when they are written.
        """

    def interrupt(self) -> None:
        """End the work of all workers soon, as `Cancelled`; the pool cannot be used afterwards. Files that are filled
        already may still be sent."""

    def read_by(self) -> tuple[str, ...]:
        """How inputs have been read so far, see `Receipt`."""

    def processor_of(self, shard: PlannedShard) -> str:
        """What computes a shard, see `Receipt`."""


class Watch(Protocol):
    """Follows a shard, from the thread that makes it."""

    def began(self, shard: PlannedShard) -> None:
        """Its tensors are queued."""

    def merged(self, shard: PlannedShard, tensor: PlannedTensor) -> None:
        """A tensor is written."""

    def filled(self, shard: PlannedShard) -> None:
        """All its bytes are written, and are sent from now on."""

    def lost(self, shard: PlannedShard) -> None:
        """The file did not arrive, and is made again."""


def make_shard(shard: PlannedShard, sink: Sink, pool: Pool, watch: Watch) -> Receipt:
    """Merge one output file into a sink, and wait until it has arrived there. Nothing but the sink changes.

    Raises:
        CheckpointError: an input cannot be read
        DestinationError: the sink cannot take the file
        Cancelled: the merge is to stop
    """
    began = time.monotonic()
    header = shard_header(shard)
    while True:
        writer = sink.open_shard(shard.filename, shard.bytes)
        writer.write(0, memoryview(header))
        tensors = pool.fill(shard, writer)
        watch.began(shard)
        not_finite = {}
        for tensor, count in tensors:
            watch.merged(shard, tensor)
            if count:
                not_finite[tensor.name] = count
        watch.filled(shard)
        try:
            stored = writer.close()
            break
        except LostShardError:
            watch.lost(shard)
    return Receipt(
        shard.filename,
        shard.bytes,
        stored.sha256,
        pool.read_by(),
        (stored.way,),
        time.monotonic() - began,
        pool.processor_of(shard),
        not_finite,
    )

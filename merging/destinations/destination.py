"""Where a merge goes. Every destination shows the result whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from checkpoints.problems import Problem
from merging.plan import Plan


@dataclass(frozen=True)
class Place:
    """Where a finished result can be found.

    Args:
        location: a folder, or `hf://owner/name`, with @revision behind where it is a pull request
        url: of its page on the Hub, if it has one
        commit: on the Hub, if it is there
        verified: whether it was read back from there and found to be what was sent
        written_by: the ways its weights went: "folder", "memory", and to the Hub "LFS", "Xet", "copy" (by the Hub
            itself) or "an earlier run", which was taken up
    """

    location: str
    url: str | None = None
    commit: str | None = None
    verified: bool = False
    written_by: tuple[str, ...] = ()


class ShardWriter(Protocol):
    """Takes the bytes of one output file, in any order and from several threads."""

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes at an offset of the file; ranges do not overlap."""

    def close(self) -> None:
        """All bytes were written; called once."""


class Destination(Protocol):
    """A place that can take a model."""

    @property
    def name(self) -> str:
        """What the model is called there."""

    @property
    def shard_buffers(self) -> int:
        """How many whole shards are held in memory on the way."""

    @property
    def can_stream(self) -> bool:
        """Whether there is a way on which no whole shard is held, where a plan asks for it."""

    @property
    def is_on_disk(self) -> bool:
        """Whether shards are files that several processes can write to."""

    def disk_bytes(self, size: int) -> int:
        """Bytes on this machine's disk for `size` bytes of weights."""

    def check(self, disk_bytes: int, plan: Plan | None = None) -> list[Problem]:
        """What stands in the way now, without changing anything.

        Args:
            disk_bytes: see above, of the weights
            plan: whose result may be there already, from a run that died at its very end
        """

    def begin(self, plan: Plan, check: Callable[[], None]) -> set[str]:
        """Get ready to take the result of a plan; called once, before anything is written.

        Args:
            plan: that is about to be run
            check: raises when the run is to stop; called while something takes its time

        Returns:
            Names of the shards that an earlier run of the same plan left here, whole. They are not written again.
        """

    def open_shard(self, filename: str, size: int) -> ShardWriter:
        """Begin an output file of `size` bytes; may wait until there is room for it.

        Raises:
            DestinationError: what was written before did not arrive.
        """

    def lost(self) -> set[str]:
        """Wait for the shards that were closed; names of those that did not arrive, and are to be made once more.

        Raises:
            DestinationError: one did not arrive, and will not when it is made once more.
        """

    def write_file(self, filename: str, data: bytes) -> None:
        """Add a small file."""

    def finish(self, message: str) -> Place:
        """Make the whole result appear at once.

        Raises:
            DestinationError: it cannot; `abandon` is then still to be called.
        """

    def abandon(self, *, keep: bool) -> None:
        """Give up. Never raises, and never shows a part of the result.

        Args:
            keep: whether finished shards may stay, where nobody takes them for a model, for a later run of the
                same plan to go on with; else the destination is left as it was before
        """

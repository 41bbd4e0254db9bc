"""Where a merge goes. Every destination shows the result whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from merging.problems import Problem


@dataclass(frozen=True)
class Place:
    """Where a finished result can be found.

    Args:
        location: a folder, or `hf://owner/name`
        url: of its page on the Hub, if it has one
        commit: on the Hub, if it is there
    """

    location: str
    url: str | None = None
    commit: str | None = None


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

    def disk_bytes(self, size: int) -> int:
        """Bytes on this machine's disk for `size` bytes of weights."""

    def check(self, disk_bytes: int) -> list[Problem]:
        """What stands in the way now, without changing anything."""

    def open_shard(self, filename: str, size: int) -> ShardWriter:
        """Begin an output file of `size` bytes; may wait until there is room for it."""

    def write_file(self, filename: str, data: bytes) -> None:
        """Add a small file."""

    def finish(self, message: str) -> Place:
        """Make the whole result appear at once.

        Raises:
            DestinationError: it cannot; `abandon` is then still to be called.
        """

    def abandon(self) -> None:
        """Leave the destination as it was before. Never raises."""

"""Where a merge goes. Every destination shows the result whole or not at all.

It has two halves. A *sink* takes output files, and is what a worker needs. A *destination* is what the process needs
that drives the merge: it checks, begins, admits the files that arrived, and makes everything appear at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from checkpoints.problems import Problem
from checkpoints.repositories.repository import Token
from merging.destinations.receipt import Receipt
from merging.plan import Plan

# Files of weights that a new result replaces: those of a model, or GGUF files.
WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")
GGUF = ".gguf"


def replaced_suffixes(plan: Plan) -> tuple[str, ...]:
    """What the names of files end with that the result of a plan replaces."""
    return (GGUF,) if any(shard.filename.endswith(GGUF) for shard in plan.shards) else WEIGHTS


@dataclass(frozen=True)
class DestinationOptions:
    """How a destination is to be used, see `run_plan`."""

    token: Token = field(default=None, repr=False)
    private: bool = True
    overwrite: bool = False
    pull_request: bool = False


@dataclass(frozen=True)
class ResultPlace:
    """Where a finished result can be found.

    Args:
        location: a folder, an address in an object store or a bucket, or `hf://owner/name`, with @revision behind
            where it is a pull request
        url: its page on the Hub, if it has one
        commit: on the Hub, if it is there
        verified: whether it was read back from there and found to be what was sent
    """

    location: str
    url: str | None = None
    commit: str | None = None
    verified: bool = False


class Stored(NamedTuple):
    """An output file that has arrived: the sha256 of its content where it is known, and how it went, see `Receipt`."""

    sha256: str | None
    way: str


class LostShardError(Exception):
    """A file did not arrive. Made again it goes another way."""


class ShardWriter(Protocol):
    """Takes the bytes of one output file, in any order and from several threads.

    That of a sink with `crosses_processes` can be pickled, and its copies write to the same file.
    """

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes at an offset of the file; ranges do not overlap."""

    def close(self) -> Stored:
        """Wait until the file has arrived, all bytes of which were written; called once.

        Raises:
            LostShardError: it did not arrive; it is to be made again.
            DestinationError: it did not arrive, and will not when it is made again.
        """


class Sink(Protocol):
    """What a worker needs of a destination."""

    @property
    def crosses_processes(self) -> bool:
        """Whether several processes of this machine can write to one file."""

    @property
    def in_order(self) -> bool:
        """Whether it wants the bytes of a file in their order, and makes early ones wait."""

    def open_shard(self, filename: str, size: int) -> ShardWriter:
        """Begin an output file of `size` bytes; may wait until there is room for it.

        Raises:
            DestinationError: the file cannot be taken.
        """

    def to_data(self) -> dict[str, object] | None:
        """What `open_sink` opens the sink from in another process or on another machine, as plain data; None where it
        cannot. Holds no token."""


class Destination(Protocol):
    """A place that can take a model, as the process that drives a merge sees it."""

    @property
    def name(self) -> str:
        """What the model is called there."""

    @property
    def can_stream(self) -> bool:
        """Whether there is a way on which no whole shard is held, where a plan asks for it."""

    @property
    def sink(self) -> Sink:
        """Takes the output files; ready after `begin`."""

    def held(self, plan: Plan) -> int:
        """Bytes of memory that it holds at most while a plan is run, by the way that the plan chooses."""

    def disk_bytes(self, size: int) -> int:
        """Bytes on this machine's disk for `size` bytes of weights."""

    def check(self, plan: Plan | None = None) -> list[Problem]:
        """What prevents the merge now, without changing anything.

        Args:
            plan: whose result needs room, or may be there already, from a run that died at its very end
        """

    def warnings(self, plan: Plan) -> list[Problem]:
        """What the user should know of a merge to here; called after `check`."""

    def begin(self, plan: Plan, check: Callable[[], None]) -> Mapping[str, Receipt]:
        """Get ready to take the result of a plan; called once, before anything is written.

        Args:
            plan: that is about to be run
            check: raises when the run is to stop; called while something takes its time

        Returns:
            By filename, the shards that an earlier run of the same plan left here, whole. They are not written again.
        """

    def admit(self, receipt: Receipt) -> None:
        """Count a file that has arrived as part of the result. Where it can, a later run then finds it; this need not
        have happened on return.

        Raises:
            DestinationError: a file that was admitted earlier could not be noted.
        """

    def write_file(self, filename: str, data: bytes) -> None:
        """Add a small file."""

    def finish(self, message: str) -> ResultPlace:
        """Make the whole result appear at once.

        Raises:
            DestinationError: it cannot; `abandon` is then still to be called.
        """

    def abandon(self, *, keep: bool) -> None:
        """Give up. Never raises, and never shows a part of the result.

        Args:
            keep: whether files that were admitted may stay, where no one takes them for a model, for a later run of
                the same plan; else the destination is left as it was before
        """

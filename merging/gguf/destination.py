"""Destinations that take GGUF files: instead of a merge's own files, or beside them in a second place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from checkpoints.memory import free_memory
from checkpoints.problems import DestinationError, Problem
from merging.destinations import Destination, LostShardError, Receipt, ResultPlace, Sink, xet
from merging.destinations.receipt import written_by
from merging.gguf import sink as sinks
from merging.gguf.card import gguf_card
from merging.gguf.file import GgufFile
from merging.gguf.layout import GgufLayout
from merging.gguf.sink import GgufSink, Tee
from merging.gguf.types import FileType
from merging.plan import Plan, PlannedShard

# Ends the name of the repository or folder beside that of the merge.
SUFFIX = "-GGUF"


def gguf_files(name: str, kinds: Sequence[FileType], layout: GgufLayout) -> tuple[GgufFile, ...]:
    """The files of a model, one a type.

    Args:
        name: of the model; the suffix is left out
    """
    stem = name.removesuffix(SUFFIX)
    return tuple(GgufFile(f"{stem}-{kind.name}.gguf", kind, layout) for kind in kinds)


def estimated_memory(plan: Plan, kinds: Sequence[FileType], workers: int, on_hub: bool) -> int:
    """Bytes that making GGUF files takes at most, roughly, before they are laid out.

    Args:
        workers: that merge at a time
        on_hub: whether they go to the Hub; the files are then held, or as much of them as goes through Xet
    """
    if not kinds:
        return 0
    elements = [tensor.elements for tensor in plan.tensors]
    shapes = [tensor.shape for tensor in plan.tensors]
    whole = sum(kind.estimated_bytes(shapes) for kind in kinds)
    largest = sum(sorted(elements, reverse=True)[:workers])
    return 8 * largest + (min(whole, xet.held(len(kinds))) if on_hub else 0)


class GgufDestination:
    """Takes the shards of a merge, and puts GGUF files of it into another destination.

    Args:
        destination: that gets the files
        files: to be made
        workers: that merge at a time
        whole: the repository on the Hub that the merge itself goes to; empty if it goes to none

    Attributes:
        written_by: how the files were written, once they are there; see `Receipt`
    """

    can_stream = False

    def __init__(self, destination: Destination, files: Sequence[GgufFile], workers: int, whole: str = ""):
        self.name = destination.name
        self.files = files
        self._destination = destination
        self._workers = workers
        self._whole = whole
        self._made: GgufSink | None = None
        self._card = ""
        self.written_by: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def plan_of(self, plan: Plan) -> Plan:
        """The plan of the files, as their destination is to see it."""
        made_of = [plan.fingerprint, self.files[0].layout.software, *(file.kind.name for file in self.files)]
        digests = [hashlib.sha256(file.header).hexdigest() for file in self.files]
        shards = tuple(PlannedShard(file.filename, (), file.size) for file in self.files)
        whole = Plan(
            recipe=" ".join([*made_of, *digests]),
            method=plan.method,
            models=plan.models,
            shards=shards,
            bytes_out=self.size,
            together=True,
        )
        needed = self._destination.held(whole) + sinks.held(self.files, plan, self._workers)
        return replace(whole, streams=self._destination.can_stream and needed > free_memory() // 2)

    @property
    def sink(self) -> Sink:
        assert self._made
        return self._made

    def held(self, plan: Plan) -> int:
        own = sinks.held(self.files, plan, self._workers)
        return own + self._destination.held(self.plan_of(plan))

    def disk_bytes(self, size: int) -> int:
        return self._destination.disk_bytes(self.size)

    def check(self, plan: Plan | None = None) -> list[Problem]:
        return self._destination.check(self.plan_of(plan) if plan else None)

    def warnings(self, plan: Plan) -> list[Problem]:
        return self._destination.warnings(self.plan_of(plan))

    def begin(self, plan: Plan, check: Callable[[], None]) -> Mapping[str, Receipt]:
        own = self.plan_of(plan)
        kept = self._destination.begin(own, check)
        missing = [file for file in self.files if file.filename not in kept]
        self._made = GgufSink(plan, missing, self._destination.sink)
        self._made.begin()
        whole = [shard for shard in plan.shards if not self._made.needs(shard)]
        return {shard.filename: Receipt(shard.filename, shard.bytes) for shard in whole}

    def admit(self, receipt: Receipt) -> None:
        """The shards themselves are nowhere."""

    def write_file(self, filename: str, data: bytes) -> None:
        if filename == "README.md":
            self._card = data.decode()

    def finish(self, message: str) -> ResultPlace:
        assert self._made
        try:
            receipts = []
            for receipt in self._made.finish():
                self._destination.admit(receipt)
                receipts.append(receipt)
        except LostShardError:
            raise DestinationError(Problem("gguf-lost", {"name": self.name})) from None
        self.written_by = written_by(receipts) or ("an earlier run",)
        location = getattr(self._destination, "repo", self.name)
        card = gguf_card(self._card, location, self.files, self._whole)
        self._destination.write_file("README.md", card.encode())
        return self._destination.finish(message)

    def abandon(self, *, keep: bool) -> None:
        self._destination.abandon(keep=keep)


class Beside:
    """A destination of a merge, and one of its GGUF files. The merge appears first.

    Attributes:
        second_place: where the GGUF files are, once the run has finished
    """

    def __init__(self, first: Destination, second: GgufDestination):
        self.name = first.name
        self.can_stream = first.can_stream
        self._first, self._second = first, second
        self._sink: Sink | None = None
        self.second_place: ResultPlace | None = None

    @property
    def sink(self) -> Sink:
        assert self._sink
        return self._sink

    def held(self, plan: Plan) -> int:
        return self._first.held(plan) + self._second.held(plan)

    def disk_bytes(self, size: int) -> int:
        return self._first.disk_bytes(size) + self._second.disk_bytes(size)

    def check(self, plan: Plan | None = None) -> list[Problem]:
        return [*self._first.check(plan), *self._second.check(plan)]

    def warnings(self, plan: Plan) -> list[Problem]:
        return [*self._first.warnings(plan), *self._second.warnings(plan)]

    def begin(self, plan: Plan, check: Callable[[], None]) -> Mapping[str, Receipt]:
        kept = self._first.begin(plan, check)
        done = self._second.begin(plan, check)
        second = self._second.sink
        assert isinstance(second, GgufSink)
        self._kept = frozenset(kept)
        if len(done) == len(plan.shards):
            self._sink = self._first.sink
            return kept
        self._sink = Tee(self._first.sink, second, self._kept)
        return {}

    def admit(self, receipt: Receipt) -> None:
        if receipt.filename not in self._kept:
            self._first.admit(receipt)

    def write_file(self, filename: str, data: bytes) -> None:
        self._first.write_file(filename, data)
        self._second.write_file(filename, data)

    def finish(self, message: str) -> ResultPlace:
        place = self._first.finish(message)
        self.second_place = self._second.finish(message)
        return place

    def abandon(self, *, keep: bool) -> None:
        self._first.abandon(keep=keep)
        self._second.abandon(keep=keep)

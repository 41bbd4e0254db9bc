"""A result in a place that has no commits: an object store, or a bucket of the Hub.

Where something is there already, shards wait in a hidden folder until all of them have arrived. In that folder are the
receipts as well, by which a run that died is taken up by the next one.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from checkpoints.object_store import Entry, ObjectStoreError
from checkpoints.problems import DestinationError, Problem
from checkpoints.wording import few
from merging.destinations.destination import DestinationOptions, ResultPlace, Sink, replaced_suffixes
from merging.destinations.receipt import Receipt, no_file
from merging.plan import Plan

# The hidden folder; below it each plan has one, with its receipts, and with shards that wait.
STATE = ".alloy"
RECEIPTS, WAITING, BEGUN = "receipts/", "waiting/", "begun-in-place"
# Files without which nothing takes the others for a model; written last, behind the index.
CONFIGS = ("config.json", "adapter_config.json")
INDEX = ".index.json"


class Files(Protocol):
    """The files below an address. Every method may raise an `ObjectStoreError`."""

    def entries(self) -> dict[str, Entry]:
        """All files, by their paths below the address."""

    def entry(self, path: str) -> Entry:
        """One file."""

    def read(self, path: str, start: int, end: int, etag: str) -> memoryview:
        """Bytes of a file from `start` up to `end`, which must still have this content."""

    def put(self, path: str, data: bytes) -> None:
        """Write a small file, at once."""

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files."""


class UncommittedDestination(ABC):
    """A place without commits.

    Args:
        address: of the result
        files: the files there
        options: how to write to them
    """

    can_stream = False

    def __init__(self, address: str, files: Files, options: DestinationOptions):
        self.address = address
        self.name = address.rpartition("/")[2]
        self._files = files
        self._options = options
        self._check: Callable[[], None] = lambda: None
        self.sink = self._open_sink("", 0)  # until a plan is known
        self._plan: Plan | None = None
        self._before: set[str] = set()  # what was there that no run of this plan has written
        self._arrived: dict[str, Entry] = {}
        self._small: dict[str, bytes] = {}

    @abstractmethod
    def held(self, plan: Plan) -> int:
        """See `Destination.held`."""

    @abstractmethod
    def _open_sink(self, folder: str, together: int) -> Sink:
        """What takes the output files.

        Args:
            folder: below the address that they go to, with a slash
            together: how many are filled at the same time; 0: they come one after the other
        """

    @abstractmethod
    def _publish(self, old: Iterable[str]) -> Mapping[str, Entry]:
        """Make the result appear, and delete old files; returns what is then to be there."""

    @abstractmethod
    def _push_failed(self, reason: str) -> DestinationError:
        """That the place does not take what is written to it."""

    def _too_large(self, plan: Plan) -> Problem | None:
        """Why what is there cannot be replaced by the result of a plan."""
        return None

    def disk_bytes(self, size: int) -> int:
        return 0

    def warnings(self, plan: Plan) -> list[Problem]:
        return []

    def check(self, plan: Plan | None = None) -> list[Problem]:
        try:
            there = self._files.entries()
        except ObjectStoreError as error:
            return list(self._push_failed(error.reason).problems)
        if not _others(there, plan):
            return []
        if not self._options.overwrite:
            return [Problem("destination-exists", {"repository": self.address}, self.address)]
        problem = self._too_large(plan) if plan else None
        return [problem] if problem else []

    # -- shards ----------------------------------------------------------------------------------------

    def begin(self, plan: Plan, check: Callable[[], None]) -> dict[str, Receipt]:
        self._plan, self._check = plan, check
        with self._failures():
            there = self._files.entries()
            self._before = _others(there, plan)
            if not self._before:
                self._files.put(_state(plan) + BEGUN, b"")
            self.sink = self._open_sink(self._folder, len(plan.shards) if plan.together else 0)
            return self._kept(there, plan)

    @property
    def _folder(self) -> str:
        """Where shards are written to, with a slash."""
        return f"{_state(self._plan)}{WAITING}" if self._plan and self._waits else ""

    @property
    def _waits(self) -> bool:
        """Whether shards wait until all of them have arrived."""
        return bool(self._before)

    def _kept(self, there: Mapping[str, Entry], plan: Plan) -> dict[str, Receipt]:
        """The shards that an earlier run left, as long as they are what it wrote."""
        kept = {}
        for shard in plan.shards:
            path = _receipt_path(plan, shard.filename)
            entry = there.get(self._folder + shard.filename)
            if path not in there or entry is None:
                continue
            note = json.loads(bytes(self._files.read(path, 0, *there[path])))
            if entry == Entry(shard.bytes, note["etag"]):
                found = Receipt.from_json(note["receipt"])
                kept[shard.filename] = replace(found, read_by=(), written_by=("an earlier run",))
                self._arrived[shard.filename] = entry
        return kept

    def admit(self, receipt: Receipt) -> None:
        assert self._plan
        with self._failures():
            entry = self._arrived_entry(receipt)
            note = json.dumps({"etag": entry.etag, "receipt": receipt.to_json()})
            self._files.put(_receipt_path(self._plan, receipt.filename), note.encode())
        self._arrived[receipt.filename] = entry

    def _arrived_entry(self, receipt: Receipt) -> Entry:
        """The file of a receipt, as it is in the store."""
        try:
            entry = self._files.entry(self._folder + receipt.filename)
            if entry.size == receipt.size:
                return entry
        except ObjectStoreError as error:
            if not error.is_missing:
                raise
        raise DestinationError(no_file(receipt, self.address))

    def write_file(self, filename: str, data: bytes) -> None:
        self._small[filename] = data

    # -- the end ---------------------------------------------------------------------------------------

    def finish(self, message: str) -> ResultPlace:
        assert self._plan
        self._check()
        with self._failures():
            there = self._files.entries()
            own = {*self._small, *self._arrived}
            if _others(there, self._plan) - self._before:
                raise DestinationError(
                    Problem("destination-filled", {"repository": self.address}, self.address)
                )
            suffixes = replaced_suffixes(self._plan)
            sent = self._publish({name for name in self._before - own if name.endswith(suffixes)})
            there = self._files.entries()
            if wrong := [name for name in sent if not _holds(there, name, sent[name])]:
                raise self._not_what_was_sent(wrong)
            self._files.delete(_below(there, _state(self._plan)))
        return ResultPlace(self.address, self._page(), verified=True)

    def _page(self) -> str | None:
        """Where people see it."""
        return None

    def abandon(self, *, keep: bool) -> None:
        if self._plan is None or (keep and self._arrived):
            return
        with contextlib.suppress(Exception):
            there = self._files.entries()
            own = set() if self._before else (_own(self._plan) | self._small.keys()) & there.keys()
            self._files.delete([*_below(there, _state(self._plan)), *own])

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What goes wrong in the place, as a sentence."""
        try:
            yield
        except ObjectStoreError as error:
            raise self._push_failed(error.reason) from None

    def _not_what_was_sent(self, wrong: list[str]) -> DestinationError:
        values = {"repository": self.address, "files": few(wrong)}
        return DestinationError(Problem("not-what-was-sent", values, self.address))


def _state(plan: Plan) -> str:
    """The folder of a plan, with a slash."""
    return f"{STATE}/{plan.fingerprint}/"


def _receipt_path(plan: Plan, filename: str) -> str:
    return f"{_state(plan)}{RECEIPTS}{filename}.json"


def turn(filename: str) -> int:
    """When a small file is written: 0, or later where it makes the others a model."""
    return 2 if filename in CONFIGS else int(filename.endswith(INDEX))


def _holds(there: Mapping[str, Entry], name: str, sent: Entry) -> bool:
    """Whether a file is there as it was sent; not every place names the content of what it is sent."""
    found = there.get(name)
    return found is not None and found.size == sent.size and sent.etag in ("", found.etag)


def _below(there: Mapping[str, Entry], folder: str) -> list[str]:
    return [path for path in there if path.startswith(folder)]


def _own(plan: Plan) -> set[str]:
    """The files of a plan's result."""
    return {*(shard.filename for shard in plan.shards), *plan.files, *plan.copied_files, "README.md"}


def _others(there: Mapping[str, Entry], plan: Plan | None) -> set[str]:
    """What is there and not hidden, without what an unfinished run of the plan has written."""
    found = {path for path in there if not path.startswith(".")}
    is_begun = plan is not None and _state(plan) + BEGUN in there
    return found - _own(plan) if plan and is_begun else found

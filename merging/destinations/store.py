"""A result in an object store, which has no commits: what makes files a model, its config, comes last.

A new model's shards are written to their places. Where something is there already, they wait in a hidden folder until
all of them have arrived, and the store itself copies them. In that folder are the receipts as well, by which a run that
died is taken up by the next one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from checkpoints.object_store import Entry, ObjectStoreError
from checkpoints.problems import DestinationError, Problem
from checkpoints.wording import few
from merging.destinations.destination import Options, Place, replaced_suffixes
from merging.destinations.receipt import Receipt, no_file
from merging.destinations.store_sink import StoreSink, held, open_store, push_failed
from merging.plan import Plan

# The hidden folder; below it each plan has one, with its receipts, and with shards that wait.
STATE = ".alloy"
RECEIPTS, WAITING, BEGUN = "receipts/", "waiting/", "begun-in-place"
# Files without which nothing takes the others for a model; written last, behind the index.
CONFIGS = ("config.json", "adapter_config.json")
INDEX = ".index.json"
# Bytes that S3 copies at most in one request.
S3_COPIES = 5 * 1024**3


class StoreDestination:
    """A place in an object store, written to with this machine's credentials."""

    can_stream = False

    def __init__(self, address: str, options: Options):
        self.address = address.rstrip("/")
        self._store = open_store(self.address)
        self.name = self.address.rpartition("/")[2]
        self.overwrite = options.overwrite
        self.sink = StoreSink(self.address, "", lambda: None)  # until a plan is known
        self._check: Callable[[], None] = lambda: None
        self._plan: Plan | None = None
        self._before: set[str] = set()  # what was there that no run of this plan has written
        self._arrived: dict[str, Entry] = {}
        self._small: dict[str, bytes] = {}

    def held(self, plan: Plan) -> int:
        return held(plan)

    def disk_bytes(self, size: int) -> int:
        return 0

    def check(self, plan: Plan | None = None) -> list[Problem]:
        try:
            there = self._store.entries()
        except ObjectStoreError as error:
            return list(push_failed(self.address, error).problems)
        if not _others(there, plan):
            return []
        if not self.overwrite:
            return [Problem("destination-exists", {"repository": self.address}, self.address)]
        largest = max(plan.shards if plan else (), key=lambda shard: shard.bytes, default=None)
        if self.address.startswith("s3://") and largest and largest.bytes > S3_COPIES:
            values = {"file": largest.filename, "size": largest.bytes, "most": S3_COPIES}
            return [Problem("store-cannot-replace", values, self.address)]
        return []

    # -- shards ----------------------------------------------------------------------------------------

    def begin(self, plan: Plan, check: Callable[[], None]) -> dict[str, Receipt]:
        self._plan, self._check = plan, check
        with self._failures():
            there = self._store.entries()
            self._before = _others(there, plan)
            if not self._before:
                self._store.put(_state(plan) + BEGUN, b"")
            self.sink = StoreSink(
                self.address, self._folder, check, together=len(plan.shards) if plan.together else 0
            )
            return self._kept(there, plan)

    @property
    def _folder(self) -> str:
        """Where shards are written to, with a slash."""
        return f"{_state(self._plan)}{WAITING}" if self._plan and self._before else ""

    def _kept(self, there: Mapping[str, Entry], plan: Plan) -> dict[str, Receipt]:
        """The shards that an earlier run left, as long as they are what it wrote."""
        kept = {}
        for shard in plan.shards:
            path = _receipt_path(plan, shard.filename)
            entry = there.get(self._folder + shard.filename)
            if path not in there or entry is None:
                continue
            note = json.loads(bytes(self._store.read(path, 0, *there[path])))
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
            self._store.put(_receipt_path(self._plan, receipt.filename), note.encode())
        self._arrived[receipt.filename] = entry

    def _arrived_entry(self, receipt: Receipt) -> Entry:
        """The file of a receipt, as it is in the store."""
        try:
            entry = self._store.entry(self._folder + receipt.filename)
            if entry.size == receipt.size:
                return entry
        except ObjectStoreError as error:
            if not error.is_missing:
                raise
        raise DestinationError(no_file(receipt, self.address))

    def write_file(self, filename: str, data: bytes) -> None:
        self._small[filename] = data

    # -- the end ---------------------------------------------------------------------------------------

    def finish(self, message: str) -> Place:
        assert self._plan
        self._check()
        with self._failures():
            there = self._store.entries()
            own = {*self._small, *self._arrived}
            if _others(there, self._plan) - self._before:
                raise DestinationError(
                    Problem("destination-filled", {"repository": self.address}, self.address)
                )
            self._replace_shards()
            for filename in sorted(self._small, key=_turn):
                self._store.put(filename, self._small[filename])
            suffixes = replaced_suffixes(self._plan)
            self._store.delete(name for name in self._before - own if name.endswith(suffixes))
            there = self._store.entries()
            sizes = {name: len(data) for name, data in self._small.items()}
            sizes |= {name: entry.size for name, entry in self._arrived.items()}
            if wrong := [name for name in sizes if name not in there or there[name].size != sizes[name]]:
                raise self._not_what_was_sent(wrong)
            self._store.delete(_below(there, _state(self._plan)))
        return Place(self.address, verified=True)

    def _replace_shards(self) -> None:
        """Put shards that wait into their places; meanwhile nothing there is taken for a model."""
        if self._folder:
            self._store.delete(filter(_turn, self._before))
            for filename in self._arrived:
                self._store.copy(self._folder + filename, filename)

    def abandon(self, *, keep: bool) -> None:
        if self._plan is None or (keep and self._arrived):
            return
        with contextlib.suppress(Exception):
            there = self._store.entries()
            own = set() if self._before else (_own(self._plan) | self._small.keys()) & there.keys()
            self._store.delete([*_below(there, _state(self._plan)), *own])

    def _failures(self) -> contextlib.AbstractContextManager[None]:
        return _failures(self.address)

    def _not_what_was_sent(self, wrong: list[str]) -> DestinationError:
        values = {"repository": self.address, "files": few(wrong)}
        return DestinationError(Problem("not-what-was-sent", values, self.address))


def _state(plan: Plan) -> str:
    """The folder of a plan, with a slash."""
    return f"{STATE}/{plan.fingerprint}/"


def _receipt_path(plan: Plan, filename: str) -> str:
    return f"{_state(plan)}{RECEIPTS}{filename}.json"


def _turn(filename: str) -> int:
    """When a small file is written: 0, or later where it makes the others a model."""
    return 2 if filename in CONFIGS else int(filename.endswith(INDEX))


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


@contextlib.contextmanager
def _failures(address: str) -> Iterator[None]:
    """What goes wrong in the store, as a sentence."""
    try:
        yield
    except ObjectStoreError as error:
        raise push_failed(address, error) from None

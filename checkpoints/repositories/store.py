"""A model in an object store, read by ranges."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping

from checkpoints.object_store import Entry, ObjectStore, ObjectStoreError, address_problem
from checkpoints.problems import Cancelled, CheckpointError, Problem
from checkpoints.repositories.repository import Location
from checkpoints.repositories.retry import Retries

# Bytes of one request: between two of them a read can be ended.
REQUEST = 16 * 1024 * 1024
# Failures in a row before a read is given up; the client has retried each request before.
READ_ATTEMPTS = 3


class StoreRepository:
    """The objects below an address, or the one at it, as they were when it was opened.

    Args:
        address: `s3://bucket/path`; credentials come from the environment

    Raises:
        CheckpointError: nothing is there, or the store cannot be read.
    """

    is_folder = False

    def __init__(self, address: str):
        address = address.rstrip("/")
        if problem := address_problem(address):
            raise CheckpointError(problem)
        self.name = address
        try:
            self._store, self._entries = _found(address)
        except ObjectStoreError as error:
            values = {"address": address, "reason": error.reason}
            raise CheckpointError(Problem("store-unreadable", values, address)) from None
        if not self._entries:
            raise CheckpointError(Problem("not-in-store", {"address": address}, address))
        self.files: Mapping[str, int] = {path: entry.size for path, entry in self._entries.items()}
        self.version = hashlib.sha256(repr(sorted(self._entries.items())).encode()).hexdigest()[:40]
        self.read_by: set[str] = set()
        self._interrupted = threading.Event()

    def is_local(self, file: str) -> bool:
        return False

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        end = start + len(buffer)
        if end > self.files[file]:
            values = {"file": f"{self.name}/{file}", "start": start, "end": end}
            raise CheckpointError(Problem("file-cut-short", values, self.name))
        for done in range(0, len(buffer), REQUEST):
            piece = buffer[done : done + REQUEST]
            piece[:] = self._read(file, start + done, start + done + len(piece))
            self.read_by.add("HTTP")

    def _read(self, file: str, start: int, end: int) -> memoryview:
        """The bytes of one request."""
        retries = Retries(READ_ATTEMPTS, self._interrupted.wait)
        while True:
            if self._interrupted.is_set():
                raise Cancelled
            try:
                return self._store.read(file, start, end, self._entries[file].etag)
            except ObjectStoreError as error:
                if error.is_missing or error.is_changed:
                    raise CheckpointError(Problem("model-changed", {"model": self.name}, self.name)) from None
                if error.is_refused or not retries.wait():
                    values = {
                        "file": file,
                        "start": start,
                        "end": end,
                        "reason": error.reason,
                        "seconds": None,
                    }
                    raise CheckpointError(Problem("unreadable", values, self.name)) from None

    def location(self, files: Iterable[str]) -> Location:
        return Location(self.name, self.version, is_folder=False)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        """Nothing to do: connections end with the store."""


def _found(address: str) -> tuple[ObjectStore, dict[str, Entry]]:
    """The objects below an address, without hidden ones; else the one at it."""
    store = ObjectStore(address)
    entries = {path: entry for path, entry in store.entries().items() if not path.startswith(".")}
    folder, _, file = address.rpartition("/")
    if entries or "." not in file or folder.count("/") < 3:
        return store, entries
    store = ObjectStore(folder)
    try:
        return store, {file: store.entry(file)}
    except ObjectStoreError as error:
        if error.is_missing:
            return store, {}
        raise

"""What a worker needs to write output files into an object store: each is filled in memory, and sent in parts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from heapq import nlargest
from typing import Any, Self

from checkpoints.names import STORE_SCHEMES
from checkpoints.object_store import PART, PARTS_AT_A_TIME, ObjectStore, ObjectStoreError, address_problem
from checkpoints.problems import DestinationError, Problem
from merging.destinations.background import Slots
from merging.destinations.destination import Stored
from merging.destinations.held_shard import HeldShard
from merging.plan import Plan

# One shard is filled while the one before it is sent.
BUFFERS = 2


def held(plan: Plan) -> int:
    """Bytes of files that are under way, and of the parts that are sent."""
    sizes = [shard.bytes for shard in plan.shards]
    count = len(sizes) if plan.together else BUFFERS
    return sum(nlargest(count, sizes)) + min(sum(sizes), count * PART * PARTS_AT_A_TIME)


def scheme_of(address: str) -> str:
    return next(scheme for scheme in STORE_SCHEMES if address.startswith(scheme))


def open_store(address: str) -> ObjectStore:
    """Connect to a place that is to be written to.

    Raises:
        DestinationError: the address is none, obstore is not installed, or its settings are wrong.
    """
    if problem := address_problem(address):
        raise DestinationError(problem)
    try:
        return ObjectStore(address)
    except ObjectStoreError as error:
        raise push_failed(address, error.reason) from None


def push_failed(address: str, reason: str) -> DestinationError:
    values = {"address": address, "reason": reason}
    return DestinationError(Problem("store-push-failed", values, address))


class StoreSink:
    """Sends output files into an object store.

    Args:
        address: of the result
        folder: below it that the files go to, with a slash; empty for the result's own place
        check: raises when the work is to stop
        together: how many files are filled at the same time; 0: they come one after the other
    """

    crosses_processes = False
    in_order = False

    def __init__(self, address: str, folder: str, check: Callable[[], None], together: int = 0):
        self._address, self._folder, self._check = address, folder, check
        self._together = together
        self._store = open_store(address)
        self._slots = Slots(together or BUFFERS)

    def to_data(self) -> dict[str, object]:
        return {
            "scheme": scheme_of(self._address),
            "address": self._address,
            "folder": self._folder,
            "together": self._together,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any], check: Callable[[], None]) -> Self:
        return cls(data["address"], data["folder"], check, data["together"])

    def open_shard(self, filename: str, size: int) -> HeldShard:
        self._slots.take(self._check)
        return HeldShard(size, self._check, lambda content: self._send(filename, content))

    def _send(self, filename: str, content: io.BytesIO) -> Stored:
        """Send a full file and drop it from memory."""
        try:
            with content.getbuffer() as view:
                sha256, size = hashlib.sha256(view).hexdigest(), len(view)
            self._store.upload(self._folder + filename, content, size)
        except ObjectStoreError as error:
            self._check()  # what ended the upload may be that the run is to stop
            raise push_failed(self._address, error.reason) from None
        finally:
            content.close()
            self._slots.give_back()
        return Stored(sha256, "object store")

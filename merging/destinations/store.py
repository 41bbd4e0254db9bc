"""A result in an object store: what makes files a model, its config, comes last.

A new model's shards are written to their places. Where something is there already they wait, and the store itself
copies them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from checkpoints.object_store import Entry
from checkpoints.problems import DestinationError, Problem
from merging.destinations.destination import DestinationOptions
from merging.destinations.store_sink import StoreSink, held, open_store, push_failed
from merging.destinations.uncommitted import UncommittedDestination, turn
from merging.plan import Plan

# Bytes that S3 copies at most in one request.
S3_COPIES = 5 * 1024**3


class StoreDestination(UncommittedDestination):
    """A place in an object store, written to with this machine's credentials."""

    def __init__(self, address: str, options: DestinationOptions):
        address = address.rstrip("/")
        self._store = open_store(address)
        super().__init__(address, self._store, options)

    def held(self, plan: Plan) -> int:
        return held(plan)

    def _open_sink(self, folder: str, together: int) -> StoreSink:
        return StoreSink(self.address, folder, self._check, together)

    def _push_failed(self, reason: str) -> DestinationError:
        return push_failed(self.address, reason)

    def _too_large(self, plan: Plan) -> Problem | None:
        largest = max(plan.shards, key=lambda shard: shard.bytes, default=None)
        if not (self.address.startswith("s3://") and largest and largest.bytes > S3_COPIES):
            return None
        values = {"file": largest.filename, "size": largest.bytes, "most": S3_COPIES}
        return Problem("store-cannot-replace", values, self.address)

    def _publish(self, old: Iterable[str]) -> Mapping[str, Entry]:
        self._replace_shards()
        for filename in sorted(self._small, key=turn):
            self._store.put(filename, self._small[filename])
        self._store.delete(old)
        sizes = {name: len(data) for name, data in self._small.items()}
        sizes |= {name: entry.size for name, entry in self._arrived.items()}
        return {name: Entry(size, "") for name, size in sizes.items()}

    def _replace_shards(self) -> None:
        """Put shards that wait into their places; meanwhile nothing there is taken for a model."""
        if self._folder:
            self._store.delete(filter(turn, self._before))
            for filename in self._arrived:
                self._store.copy(self._folder + filename, filename)

"""What a worker needs to write output files into a bucket of the Hub: Xet takes each while it is made."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Self

from checkpoints.names import BUCKET_SCHEME
from checkpoints.object_store import ObjectStoreError
from checkpoints.problems import DestinationError, Problem
from checkpoints.repositories.repository import Token
from merging.destinations import xet
from merging.destinations.background import Slots
from merging.destinations.bucket_files import BucketFiles
from merging.destinations.destination import LostShardError, Stored
from merging.destinations.xet import STREAMS, XetLostError, XetShard
from merging.plan import Plan

# How often a file is made before it is given up: hf_xet has retried for a minute and a half each time.
ATTEMPTS = 3


def held(plan: Plan) -> int:
    """Bytes that Xet holds of files that are under way."""
    count = len(plan.shards) if plan.together else STREAMS
    return min(xet.held(count), sum(shard.bytes for shard in plan.shards))


def bucket_push_failed(address: str, reason: str) -> DestinationError:
    return DestinationError(Problem("bucket-push-failed", {"address": address, "reason": reason}, address))


class BucketSink:
    """Sends output files into a folder of a bucket, where they appear one by one.

    Args:
        address: of the result
        folder: below it that the files go to, with a slash
        token: whose access to use
        check: raises when the work is to stop
        together: how many files are filled at the same time; 0: they come one after the other

    Raises:
        DestinationError: the address is none.
    """

    crosses_processes = False
    in_order = True

    def __init__(self, address: str, folder: str, token: Token, check: Callable[[], None], together: int = 0):
        self._address, self._folder, self._check = address, folder, check
        self._together = together
        self._files = BucketFiles(address, token)
        self._slots = Slots(together or STREAMS)
        self._lost: Counter[str] = Counter()
        self._counting = threading.Lock()

    def to_data(self) -> dict[str, object]:
        return {
            "scheme": BUCKET_SCHEME,
            "address": self._address,
            "folder": self._folder,
            "together": self._together,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any], token: Token, check: Callable[[], None]) -> Self:
        return cls(data["address"], data["folder"], token, check, data["together"])

    def open_shard(self, filename: str, size: int) -> XetShard:
        self._slots.take(self._check)
        try:
            return self._files.xet.open(self._check, lambda shard: self._arrived(filename, shard))
        except XetLostError as error:
            self._slots.give_back()
            self._check()
            raise bucket_push_failed(self._address, str(error)) from error

    def stop(self) -> None:
        """End what is under way, at once."""
        self._files.xet.stop()

    def _arrived(self, filename: str, shard: XetShard) -> Stored:
        """Wait until Xet has all of a file, and name it in the bucket."""
        try:
            arrived = shard.finish()
            self._files.change({self._folder + filename: arrived.xet_hash}, ())
        except XetLostError as error:
            self._check()
            with self._counting:
                self._lost[filename] += 1
            if self._lost[filename] >= ATTEMPTS:
                raise bucket_push_failed(self._address, str(error)) from error
            raise LostShardError from error
        except ObjectStoreError as error:
            self._check()
            raise bucket_push_failed(self._address, error.reason) from error
        finally:
            self._slots.give_back()
        return Stored(arrived.sha256, "Xet")

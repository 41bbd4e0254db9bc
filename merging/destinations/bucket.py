"""A result in a bucket of the Hub. Shards wait in a hidden folder, and one request shows the whole result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

from huggingface_hub import constants

from checkpoints.object_store import Entry, ObjectStoreError
from checkpoints.problems import DestinationError, Problem
from merging.destinations.account import account_limits
from merging.destinations.bucket_files import LINES, BucketFiles
from merging.destinations.bucket_sink import BucketSink, bucket_push_failed, held
from merging.destinations.destination import DestinationOptions, ResultPlace
from merging.destinations.receipt import Receipt
from merging.destinations.uncommitted import UncommittedDestination, turn
from merging.plan import Plan


class BucketDestination(UncommittedDestination):
    """A place in a bucket, which is created if there is none."""

    sink: BucketSink

    def __init__(self, address: str, options: DestinationOptions):
        address = address.rstrip("/")
        self._bucket = BucketFiles(address, options.token)
        self._created = False
        super().__init__(address, self._bucket, options)

    def held(self, plan: Plan) -> int:
        return held(plan)

    def _open_sink(self, folder: str, together: int) -> BucketSink:
        return BucketSink(self.address, folder, self._options.token, self._check, together)

    def _push_failed(self, reason: str) -> DestinationError:
        return bucket_push_failed(self.address, reason)

    def _page(self) -> str:
        page = f"{constants.ENDPOINT}/buckets/{self._bucket.bucket}"
        return f"{page}/tree/{self._bucket.folder}" if self._bucket.folder else page

    @property
    def _waits(self) -> bool:
        return True

    def check(self, plan: Plan | None = None) -> list[Problem]:
        owner = self._bucket.bucket.partition("/")[0]
        found = account_limits(owner, self.address, self.address, self._options.token)
        try:
            problem = found if isinstance(found, Problem) else self._public()
        except ObjectStoreError as error:
            return list(self._push_failed(error.reason).problems)
        return [problem] if problem else super().check(plan)

    def _public(self) -> Problem | None:
        """That anyone could read what is written, where that was not asked for."""
        info = self._bucket.info() if self._options.private else None
        if info is None or info.private:
            return None
        return Problem("bucket-public", {"bucket": self._bucket.bucket}, self.address)

    def begin(self, plan: Plan, check: Callable[[], None]) -> dict[str, Receipt]:
        with self._failures():
            self._created = self._bucket.create(private=self._options.private)
            if problem := self._public():
                raise DestinationError(problem)
        return super().begin(plan, check)

    def _publish(self, old: Iterable[str]) -> Mapping[str, Entry]:
        small = self._bucket.send(self._small) if self._small else {}
        sent = {**self._arrived, **{name: small[name] for name in sorted(small, key=turn)}}
        old = list(old)
        if len(sent) + len(old) > LINES:
            # It takes several requests: meanwhile nothing there is taken for a model.
            self._bucket.delete(filter(turn, self._before))
        self._bucket.change({name: entry.etag for name, entry in sent.items()}, old)
        return sent

    def finish(self, message: str) -> ResultPlace:
        place = super().finish(message)
        self._created = False
        return place

    def abandon(self, *, keep: bool) -> None:
        self.sink.stop()
        super().abandon(keep=keep)
        if self._created and not (keep and self._arrived):
            with contextlib.suppress(Exception):
                # Only what this run created, and only while nothing else is in it.
                if self._bucket.is_empty():
                    self._bucket.remove()

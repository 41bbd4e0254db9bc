"""The files of a folder in a bucket of the Hub. What is written goes through Xet; one request then names many files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import httpx2
from huggingface_hub import BucketInfo, constants, get_session
from huggingface_hub.errors import BucketNotFoundError, HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

from checkpoints.names import bucket_place
from checkpoints.object_store import Entry, ObjectStoreError
from checkpoints.problems import DestinationError, Problem
from checkpoints.repositories.bucket import bucket_entries, bucket_file_url
from checkpoints.repositories.repository import Token
from checkpoints.repositories.retry import RETRIED, retry
from merging.destinations.hub_sink import api_headers, hub_api, xet_write_access
from merging.destinations.xet import WriteAccess, XetLostError, XetStore

T = TypeVar("T")

# Lines of one request.
LINES = 1000


class BucketFiles:
    """Reads and changes the files below an address. Every method may raise an `ObjectStoreError`.

    Args:
        address: `hf://buckets/owner/name`, and a folder behind it
        token: whose access to use

    Raises:
        DestinationError: the address is none.
    """

    def __init__(self, address: str, token: Token):
        place = bucket_place(address)
        if place is None:
            raise DestinationError(Problem("bucket-address", {"given": address}, address))
        self.bucket, self.folder = place
        self._token = token
        self.xet = XetStore(self._write_access)

    def info(self) -> BucketInfo | None:
        """What the Hub says of the bucket; None if there is none."""

        def ask() -> BucketInfo | None:
            try:
                return hub_api(self._token).bucket_info(self.bucket)
            except BucketNotFoundError:
                return None

        return self._asked(ask)

    def create(self, *, private: bool) -> bool:
        """Make the bucket, unless there is one; returns whether it was made."""
        try:
            self._asked(lambda: hub_api(self._token).create_bucket(self.bucket, private=private))
        except ObjectStoreError as error:
            if error.reason != "status 409":
                raise
            return False  # it exists, or the first answer was lost: it is not ours to delete
        return True

    def remove(self) -> None:
        """Delete the bucket."""
        self._asked(lambda: hub_api(self._token).delete_bucket(self.bucket, missing_ok=True))

    def entries(self) -> dict[str, Entry]:
        """All files, by their paths below the address; none where there is no bucket."""

        def ask() -> dict[str, Entry]:
            try:
                return bucket_entries(self.bucket, self.folder, self._token)
            except BucketNotFoundError:
                return {}

        return self._asked(ask)

    def is_empty(self) -> bool:
        """Whether nothing is in the whole bucket."""
        return not self._asked(lambda: bucket_entries(self.bucket, "", self._token))

    def entry(self, path: str) -> Entry:
        """One file."""
        api = hub_api(self._token)
        found = self._asked(lambda: [*api.get_bucket_paths_info(self.bucket, [self._full(path)])])
        if not found:
            raise ObjectStoreError("not found", is_missing=True)
        return Entry(found[0].size, found[0].xet_hash)

    def read(self, path: str, start: int, end: int, etag: str) -> memoryview:
        """Bytes of a small file from `start` up to `end`.

        Args:
            etag: Xet's name of its content, which it must still have
        """
        url = bucket_file_url(self.bucket, self._full(path))

        def ask() -> bytes:
            hub_api(self._token)  # sets the timeouts
            response = get_session().get(url, headers=api_headers(self._token), follow_redirects=True)
            hf_raise_for_status(response)
            if etag not in (each.headers.get("X-Xet-Hash", etag) for each in response.history):
                raise ObjectStoreError("changed", is_changed=True)
            return bytes(response.content)

        return memoryview(self._asked(ask))[start:end]

    def put(self, path: str, data: bytes) -> None:
        """Write a small file, at once."""
        self.change({path: self.send({path: data})[path].etag}, ())

    def send(self, contents: Mapping[str, bytes]) -> dict[str, Entry]:
        """Upload small files, which `change` can then name; returns how it names their content."""
        try:
            sent = self.xet.send(contents)
        except XetLostError as error:
            raise ObjectStoreError(str(error)) from error
        return {path: Entry(file.size, file.xet_hash) for path, file in sent.items()}

    def delete(self, paths: Iterable[str]) -> None:
        self.change({}, paths)

    def change(self, added: Mapping[str, str], deleted: Iterable[str]) -> None:
        """Name files and delete others, in one request if there are up to a thousand.

        Args:
            added: Xet's names of the content, by path; those that are named last appear last
            deleted: paths
        """
        now = int(time.time() * 1000)
        lines: list[dict[str, Any]] = [
            {"type": "addFile", "path": self._full(path), "xetHash": content, "mtime": now}
            for path, content in added.items()
        ]
        lines[:0] = [{"type": "deleteFile", "path": self._full(path)} for path in deleted]
        for start in range(0, len(lines), LINES):
            self._send_lines(lines[start : start + LINES])

    def _send_lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        api = hub_api(self._token)

        def send() -> list[str]:
            response = get_session().post(
                f"{constants.ENDPOINT}/api/buckets/{self.bucket}/batch",
                headers={**api_headers(self._token), "Content-Type": "application/x-ndjson"},
                content=data,
            )
            # The paths that failed are listed, where all others were done (200) and where none was (422).
            if response.status_code not in (200, 422):
                hf_raise_for_status(response)
            return [str(failure["path"]) for failure in response.json().get("failed", ())]

        failed = self._asked(send)
        added = {line["path"] for line in lines if line["type"] == "addFile"}
        if failed and added.isdisjoint(failed):
            # A file that was to be deleted may be gone already, by an earlier request whose answer was lost.
            failed = [
                file.path for file in self._asked(lambda: [*api.get_bucket_paths_info(self.bucket, failed)])
            ]
        if failed:
            raise ObjectStoreError(f"refused: {failed[0]}", is_refused=True)

    def _full(self, path: str) -> str:
        return f"{self.folder}/{path}" if self.folder else path

    def _write_access(self) -> WriteAccess:
        return xet_write_access(
            f"{constants.ENDPOINT}/api/buckets/{self.bucket}/xet-write-token", self._token
        )

    def _asked(self, ask: Callable[[], T]) -> T:
        """What the Hub answers, after retries."""
        try:
            return retry(ask)
        except HfHubHTTPError as error:
            status = error.response.status_code
            raise ObjectStoreError(
                f"status {status}", is_missing=status == 404, is_refused=status not in RETRIED
            ) from error
        except (httpx2.HTTPError, OSError, KeyError, TypeError, ValueError) as error:
            raise ObjectStoreError(type(error).__name__) from error

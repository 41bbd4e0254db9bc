"""A model in a bucket of the Hub, whose files have no history: as they are when it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import EntryNotFoundError

from checkpoints.gguf_files import belongs
from checkpoints.names import bucket_place
from checkpoints.object_store import Entry
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.hub import ATTEMPTS_TO_CONNECT, HubRepository
from checkpoints.repositories.hub_errors import hub_errors
from checkpoints.repositories.repository import Location, Token, current_token
from checkpoints.repositories.retry import ATTEMPTS, retry


def bucket_entries(bucket: str, folder: str, token: Token, connecting: int = ATTEMPTS) -> dict[str, Entry]:
    """All files below a folder of a bucket, by their paths below it, with Xet's names of their content.

    Args:
        bucket: `owner/name`
        folder: empty for all of it
        token: whose access to use
        connecting: see `retry`

    Raises:
        HfHubHTTPError, httpx2.TransportError: there is no such bucket, or the Hub does not tell.
    """
    api = HfApi(token=current_token(token))

    def ask() -> dict[str, Entry]:
        found = {}
        with suppress(EntryNotFoundError):  # there is no such folder
            for item in api.list_bucket_tree(bucket, prefix=folder or None, recursive=True):
                if item.type == "file":
                    found[item.path] = Entry(item.size, item.xet_hash)
        return found

    prefix = f"{folder}/" if folder else ""
    found = retry(ask, connecting)
    return {path.removeprefix(prefix): entry for path, entry in found.items() if path.startswith(prefix)}


def bucket_file_url(bucket: str, path: str) -> str:
    """Where a file of a bucket is read."""
    return f"{constants.ENDPOINT}/buckets/{bucket}/resolve/{quote(path, safe='')}"


class BucketRepository(HubRepository):
    """The files below an address in a bucket, or the one at it with the other parts of the same model.

    Args:
        address: `hf://buckets/owner/name`, and a folder behind it
        token: whose access to use

    Raises:
        CheckpointError: nothing is there for this token, or the Hub is silent.
    """

    def __init__(self, address: str, token: Token):
        address = address.rstrip("/")
        place = bucket_place(address)
        if place is None:
            raise CheckpointError(Problem("bucket-address", {"given": address}, address))
        self._bucket, self._folder = place
        with hub_errors(address):
            entries = self._entries(token)
        if not entries:
            raise CheckpointError(Problem("not-in-store", {"address": address}, address))
        version = hashlib.sha256(repr(sorted(entries.items())).encode()).hexdigest()[:40]
        super().__init__(address, version, {path: entry.size for path, entry in entries.items()}, token)
        self._contents = {path: entry.etag for path, entry in entries.items()}

    def _entries(self, token: Token) -> dict[str, Entry]:
        """The files that the address names, without hidden ones."""
        found = bucket_entries(self._bucket, self._folder, token, ATTEMPTS_TO_CONNECT)
        parent, _, file = self._folder.rpartition("/")
        if not found and "." in file:
            beside = bucket_entries(self._bucket, parent, token, ATTEMPTS_TO_CONNECT)
            found = {path: entry for path, entry in beside.items() if belongs(file, path)}
            self._folder = parent
        return {path: entry for path, entry in found.items() if not path.startswith(".")}

    def _find_cached(self) -> dict[str, Path]:
        return {}  # the cache is for repositories

    def _xet_token_url(self) -> str:
        return f"{constants.ENDPOINT}/api/buckets/{self._bucket}/xet-read-token"

    def _file_url(self, file: str) -> str:
        return bucket_file_url(self._bucket, f"{self._folder}/{file}" if self._folder else file)

    def _found_xet(self, file: str, xet_hash: str) -> None:
        if xet_hash != self._contents[file]:
            raise CheckpointError(Problem("model-changed", {"model": self.name}, self.name))
        super()._found_xet(file, xet_hash)

    def location(self, files: Iterable[str]) -> Location:
        return Location(self.name, self.version, is_folder=False)

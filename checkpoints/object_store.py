"""Object stores: S3, Google Cloud Storage and Azure, through obstore.

Credentials, region and endpoint come from the environment, by the names that the vendors gave them. The texts of
obstore's errors may quote what a store answered, which may name a key: none of them is passed on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, NamedTuple

from checkpoints.names import is_store_address
from checkpoints.problems import Problem

# What the names of the vendors' variables begin with.
VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")
# Seconds to connect, and for one request with its answer; seconds of retries, and how many.
CONNECT_TIMEOUT, TIMEOUT = "10s", "120s"
RETRY = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
# Bytes of a part of an upload, parts that are sent at a time, and parts that a file may have (S3 takes 10,000).
PART = 16 * 1024 * 1024
PARTS_AT_A_TIME = 4
MAX_PARTS = 9000


def store_environment() -> dict[str, str]:
    """The variables by which stores are reached, credentials among them."""
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}


class ObjectStoreError(Exception):
    """A store did not do what it was asked for.

    Args:
        reason: why, in a word or a status
        is_missing: whether there is no such object
        is_changed: whether the object is another one by now
        is_refused: whether another attempt will not help
    """

    def __init__(
        self, reason: str, *, is_missing: bool = False, is_changed: bool = False, is_refused: bool = False
    ):
        super().__init__(reason)
        self.reason = reason
        self.is_missing = is_missing
        self.is_changed = is_changed
        self.is_refused = is_refused or is_missing or is_changed


class Entry(NamedTuple):
    """An object: its size in bytes, and what the store calls its content."""

    size: int
    etag: str


def address_problem(address: str) -> Problem | None:
    """Why an address cannot be used; None where it can. What was given is not repeated: it may hold a password."""
    scheme = address.partition("://")[0] + "://"
    if not is_store_address(address):
        return Problem("store-address", {"scheme": scheme}, scheme)
    try:
        import obstore  # noqa: F401
    except ImportError:
        return Problem("stores-not-installed", {"scheme": scheme}, scheme)
    return None


def connect(address: str) -> Any:
    """obstore's store for an address."""
    from obstore.store import from_url

    client = {
        "connect_timeout": CONNECT_TIMEOUT,
        "timeout": TIMEOUT,
        "allow_http": store_environment().get("AWS_ALLOW_HTTP", "").lower() == "true",
    }
    return from_url(address, client_options=client, retry_config=RETRY)  # type: ignore[call-overload]


class ObjectStore:
    """The objects below an address. Every method may raise an `ObjectStoreError`.

    Args:
        address: without an `address_problem`
    """

    def __init__(self, address: str):
        self.address = address
        with _errors():
            self._store = connect(address)

    def entries(self) -> dict[str, Entry]:
        """All objects, by their paths below the address."""
        import obstore

        with _errors():
            found = [entry for chunk in obstore.list(self._store) for entry in chunk]
        return {str(entry["path"]): _entry(entry) for entry in found}

    def entry(self, path: str) -> Entry:
        """One object."""
        import obstore

        with _errors():
            return _entry(obstore.head(self._store, path))

    def read(self, path: str, start: int, end: int, etag: str) -> memoryview:
        """Bytes of an object from `start` up to `end`.

        Args:
            etag: what its content must still be called; empty where the store gave no such name
        """
        import obstore

        options: obstore.GetOptions = {"range": (start, end)}
        if etag:
            options["if_match"] = etag
        with _errors():
            got = obstore.get(self._store, path, options=options)
            data = memoryview(got.bytes())
        if len(data) != end - start:
            raise ObjectStoreError(f"{len(data)} of {end - start} bytes came")
        return data

    def put(self, path: str, data: bytes) -> None:
        """Write a small object, at once."""
        import obstore

        with _errors():
            obstore.put(self._store, path, data, use_multipart=False)

    def upload(self, path: str, content: BinaryIO, size: int) -> None:
        """Write an object part by part. It appears when all of it has arrived; if reading `content` fails, the parts
        are removed."""
        import obstore

        with _errors():
            obstore.put(
                self._store,
                path,
                content,
                use_multipart=True,
                chunk_size=max(PART, size // MAX_PARTS + 1),
                max_concurrency=PARTS_AT_A_TIME,
            )

    def copy(self, path: str, to: str) -> None:
        """Let the store copy an object."""
        import obstore

        with _errors():
            obstore.copy(self._store, path, to)

    def delete(self, paths: Iterable[str]) -> None:
        import obstore

        if names := list(paths):
            with _errors():
                obstore.delete(self._store, names)


def _entry(found: Mapping[str, Any]) -> Entry:
    return Entry(int(found["size"]), str(found["e_tag"] or ""))


@contextmanager
def _errors() -> Iterator[None]:
    """What obstore raises, without its text."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError:
        raise ObjectStoreError("not found", is_missing=True) from None
    except exceptions.PreconditionError:
        raise ObjectStoreError("changed", is_changed=True) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise ObjectStoreError("access denied", is_refused=True) from None
    except (exceptions.BaseError, OSError, ValueError) as error:
        status = re.search(r"status code: (\d{3})", str(error))
        is_refused = bool(status) and status[1][0] == "4" and status[1] not in ("408", "429")  # type: ignore[index]
        reason = f"status {status[1]}" if status else type(error).__name__
        raise ObjectStoreError(reason, is_refused=is_refused) from None

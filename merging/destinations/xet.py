"""A second way to the Hub: a shard goes to Xet, the store behind it, while it is made, and is never held whole.

The first way, LFS, wants the hash of a file before its first byte, and so the whole file in memory. Xet cuts what it is
given into pieces, sends those that it does not have, and tells the hash at the end, for more CPU time and longer.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from merging.destinations.destination import Stored

# Shards under way at a time: one is filled while the last pieces of the one before it go up.
STREAMS = 2
# Bytes of a shard that may wait for those that come before them in the file.
EARLY = 32 * 1024 * 1024
# Pieces that hf_xet sends at a time, of all streams together, and bytes of one. Left alone it takes up to 64.
UPLOADS = 3
PIECE = 64 * 1024 * 1024


def held(streams: int) -> int:
    """Most bytes that are held, measured with a slow store: pieces being sent, one being packed, and for each stream a
    full one and one being filled. A fast store has less in flight."""
    return PIECE * (UPLOADS + 1 + 2 * streams) + EARLY * streams + 30_000_000


HELD = held(STREAMS)
# How long hf_xet retries a request before the shard is given up.
SETTINGS: dict[str, Any] = {
    "client.ac_max_upload_concurrency": UPLOADS,
    "client.connect_timeout": "20s",
    "client.read_timeout": "120s",
    "client.retry_base_delay": "1s",
    "client.retry_max_duration": "90s",
}


class Arrived(NamedTuple):
    """A file that Xet has: its size in bytes, the sha256 of its content, and Xet's own name of that."""

    size: int
    sha256: str
    xet_hash: str


class XetLostError(Exception):
    """Xet does not take a shard; says why. What it got of it is of no use."""


# The Hub's answer to a request for write access: casUrl, accessToken, exp; and the address and the headers by which
# hf_xet itself asks again when that ends.
WriteAccess: TypeAlias = tuple[Mapping[str, Any], str, dict[str, str]]


class XetStore:
    """Takes files for one revision of a repository, or for a bucket.

    Args:
        ask: gets access to write
    """

    def __init__(self, ask: Callable[[], WriteAccess]):
        self._ask = ask
        self._session: Any = None
        self._lock = threading.Lock()
        self._open: set[XetShard] = set()
        self._stopped = False

    def open(self, check: Callable[[], None], full: Callable[[XetShard], Stored]) -> XetShard:
        """Begin a shard.

        Args:
            check: raises when the run is to stop
            full: waits until it has arrived, when all of it was written

        Raises:
            XetLostError: there is no access, or no way to the store.
        """
        import hf_xet

        try:
            upload = self._begin()
            stream = upload.start_upload_stream(sha256=hf_xet.COMPUTE_SHA256)
        except XetLostError:
            raise
        except Exception as error:
            raise XetLostError(f"Xet: {type(error).__name__}") from error
        shard = XetShard(upload, stream, check, full)
        with self._lock:
            self._open = {one for one in self._open if not one.is_over} | {shard}
            if self._stopped:
                shard.abort()
        return shard

    def _begin(self) -> Any:
        """hf_xet's upload of one or more files."""
        import hf_xet

        access, url, headers = self._ask()
        try:
            self._session = self._session or hf_xet.XetSession(hf_xet.XetConfig().with_config(SETTINGS))
            return self._session.new_upload_commit(
                endpoint=access["casUrl"],
                token=access["accessToken"],
                token_expiry_unix_secs=int(access["exp"]),
                token_refresh_url=url,
                token_refresh_headers=headers,
            )
        except Exception as error:  # hf_xet's are of many kinds, here and elsewhere, and none says what to do
            raise XetLostError(f"Xet: {type(error).__name__}") from error

    def send(self, contents: Mapping[str, bytes]) -> dict[str, Arrived]:
        """Upload small files together, and wait until they have arrived.

        Args:
            contents: by name

        Raises:
            XetLostError: they have not.
        """
        import hf_xet

        upload = self._begin()
        try:
            sent = {
                name: upload.start_upload_bytes(data, sha256=hf_xet.COMPUTE_SHA256)
                for name, data in contents.items()
            }
            upload.wait_to_finish()
            infos = {name: handle.result().xet_info for name, handle in sent.items()}
        except Exception as error:
            raise XetLostError(f"Xet: {type(error).__name__}") from error
        return {name: Arrived(info.file_size, info.sha256, info.hash) for name, info in infos.items()}

    def stop(self) -> None:
        """End all that is under way, at once; who waits for it meets an `XetLostError`."""
        with self._lock:
            self._stopped = True
            for shard in self._open:
                shard.abort()


class XetShard:
    """A shard that is sent in the order of its bytes, whatever the order in which they are made.

    Bytes that come early wait, up to EARLY of them; then their writer waits as well. The bytes that are next never
    wait: tensors are handed out in the order of the file, so some worker is merging them.

    Attributes:
        is_over: whether it has arrived, or is lost
    """

    def __init__(
        self, upload: Any, stream: Any, check: Callable[[], None], full: Callable[[XetShard], Stored]
    ):
        self._upload = upload
        self._stream = stream
        self._check = check
        self._full = full
        self._turn = threading.Condition()
        self._next = 0
        self._early: dict[int, bytes] = {}
        self._waiting = 0
        self._digest = hashlib.sha256()
        self._lost: Exception | None = None
        self.is_over = False

    def write(self, offset: int, data: memoryview) -> None:
        with self._turn:
            while offset != self._next and self._waiting + len(data) > EARLY and not self._lost:
                self._turn.wait(0.1)
                self._check()
            if self._lost:
                return  # it is made once more, another way
            if offset != self._next:
                self._early[offset] = bytes(data)
                self._waiting += len(data)
                return
            self._send(bytes(data))
            while (piece := self._early.pop(self._next, None)) is not None:
                self._waiting -= len(piece)
                self._send(piece)
            self._turn.notify_all()

    def _send(self, data: bytes) -> None:
        self._next += len(data)
        self._digest.update(data)
        try:
            if not self._lost:
                self._stream.write(data)  # waits while as much is on its way as may be
        except Exception as error:
            self._lost = error
            self._early.clear()

    def close(self) -> Stored:
        return self._full(self)

    def finish(self) -> Arrived:
        """Wait until the store has all of it; a commit may then name it.

        Raises:
            XetLostError: it has not.
        """
        try:
            if self._lost:
                raise self._lost
            info = self._stream.finish().xet_info
            self._upload.wait_to_finish()
        except Exception as error:
            raise XetLostError(f"Xet: {type(error).__name__}") from error
        finally:
            self.is_over = True
        sent = self._next, self._digest.hexdigest()
        if (info.file_size, info.sha256) != sent:
            raise XetLostError("Xet got other bytes than were made")
        return Arrived(*sent, info.hash)

    def abort(self) -> None:
        """End it, at once, from any thread."""
        self._upload.abort()

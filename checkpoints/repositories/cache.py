"""A cache on disk of what was read from the Hub, for sweeps that read the same models again and again.

It is off unless `ALLOY_CACHE_BYTES` says how large it may become. Files are kept in pieces, named by what they
are a piece of; a commit never changes, so a piece is never out of date. Whoever asks must have been let in by
the Hub first: the cache does not know whose models it holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from checkpoints.problems import CheckpointError, Problem

VARIABLE = "ALLOY_CACHE_BYTES"
PIECE = 4 * 1024 * 1024
CHECKSUM = 4
# After so much of the limit was written, look again at what is there: other processes write as well.
SHARE = 16
# Room is made down to this part of the limit, so that it is not made for each piece.
KEPT = 0.9
# Seconds after which an unfinished file belongs to nobody.
ABANDONED = 3600


def open_cache() -> RangeCache | None:
    """The cache of this machine's user, if there should be one.

    Raises:
        CheckpointError: its size is not a number
    """
    limit = os.environ.get(VARIABLE, "").strip() or "0"
    if not limit.isdigit():
        raise CheckpointError(Problem("cache-size", {"variable": VARIABLE, "given": limit}, VARIABLE))
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return RangeCache(Path(home).expanduser() / "alloy", int(limit)) if int(limit) else None


class RangeCache:
    """Pieces of files in a folder that threads and processes share.

    Args:
        folder: created when needed
        limit: bytes of files that it holds at most; the least recently used go first
    """

    def __init__(self, folder: Path, limit: int):
        self.folder = folder
        self.limit = limit
        self._lock = threading.Lock()
        self._written = limit  # so that the first write looks at what is there

    def read_into(
        self, file: str, size: int, start: int, buffer: memoryview, fetch: Callable[[int, memoryview], None]
    ) -> bool:
        """Fill a buffer with bytes of a file from offset `start` on, fetching the pieces that are not there.

        Args:
            file: what it is known by, everywhere and for ever
            size: of the whole file, in bytes
            fetch: fills a buffer with the file's bytes from an offset on

        Returns:
            Whether any piece was there.
        """
        found = False
        end = start + len(buffer)
        for number in range(start // PIECE, -(-end // PIECE)):
            first = number * PIECE
            last = min(first + PIECE, size)
            path = self.folder / hashlib.sha256(f"{file}\n{PIECE}\n{number}".encode()).hexdigest()
            piece = self._load(path, last - first)
            found = found or piece is not None
            if piece is None:
                fetched = bytearray(last - first)
                fetch(first, memoryview(fetched))
                self._store(path, fetched)
                piece = memoryview(fetched)
            low, high = max(start, first), min(end, last)
            buffer[low - start : high - start] = piece[low - first : high - first]
        return found

    def _load(self, path: Path, size: int) -> memoryview | None:
        try:
            data = memoryview(path.read_bytes())
            os.utime(path)
        except OSError:
            return None
        piece, checksum = data[:size], data[size:]
        return piece if checksum == zlib.crc32(piece).to_bytes(CHECKSUM, "little") else None

    def _store(self, path: Path, piece: bytearray) -> None:
        """Keep a piece. A disk that is full or gone does not stop a merge that can do without it."""
        if len(piece) + CHECKSUM > self.limit:
            return
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(piece) + CHECKSUM)
            with partial.open("wb") as file:
                file.write(piece)
                file.write(zlib.crc32(piece).to_bytes(CHECKSUM, "little"))
            partial.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()

    def _make_room(self, nbytes: int) -> None:
        with self._lock:
            self._written += nbytes
            if self._written < self.limit // SHARE:
                return
            self._written = 0
            found = []
            for entry in os.scandir(self.folder):
                with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                    status = entry.stat()
                    age = time.time() - status.st_mtime
                    if not entry.name.startswith(".") or age > ABANDONED:
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
            # What is written until the next look has to fit, too.
            used = sum(size for _, size, _ in found) + nbytes + self.limit // SHARE
            if used <= self.limit:
                return
            for _, size, path in sorted(found):
                with contextlib.suppress(FileNotFoundError):
                    Path(path).unlink()
                used -= size
                if used <= self.limit * KEPT:
                    return

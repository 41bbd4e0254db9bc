"""Results that visitors download as files: folders of this server, bounded in bytes, deleted after an hour."""

from __future__ import annotations

import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from merging import MergeError, Problem
from ui.widgets.html import size

MAX_BYTES = 10_000_000_000
SECONDS_KEPT = 3600


class ResultDownloads:
    """The folders, each under an unguessable name.

    Args:
        folder: that holds them; what an earlier server left there is deleted with the first request
        most_bytes: limit for all together
        clock: gives seconds
    """

    def __init__(
        self, folder: Path, most_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self._most = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        # When each folder was complete (infinity while it is being made), and its bytes.
        self._kept: dict[Path, tuple[float, int]] = {}

    def place(self, name: str, nbytes: int) -> Path:
        """An unguessable folder for a result, which does not exist yet.

        Args:
            name: of the result
            nbytes: its size

        Raises:
            MergeError: there is no room.
        """
        with self._lock:
            self._sweep()
            self._check(nbytes)
            return self.folder / secrets.token_urlsafe(24) / name

    @contextmanager
    def reserve(self, place: Path, nbytes: int) -> Iterator[None]:
        """Reserve room for a result while it is made, and keep the result for an hour afterwards.

        Args:
            place: from `place`
            nbytes: its size

        Raises:
            MergeError: there is no room left.
        """
        own = place.parent
        with self._lock:
            self._sweep()
            self._check(nbytes)
            own.mkdir()
            self._kept[own] = math.inf, nbytes
        try:
            yield
        except BaseException:
            with self._lock:
                del self._kept[own]
                shutil.rmtree(own, ignore_errors=True)
            raise
        with self._lock:
            self._kept[own] = self._clock(), nbytes

    def _check(self, nbytes: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        taken = sum(size for _, size in self._kept.values())
        free = shutil.disk_usage(self.folder).free
        if taken + nbytes > self._most or 1.2 * nbytes > free:
            room = size(max(min(self._most - taken, free), 0))
            raise MergeError(Problem("no-room", {"size": size(nbytes), "free": room}))

    def _sweep(self) -> None:
        now = self._clock()
        for folder, (since, _) in list(self._kept.items()):
            if now - since > SECONDS_KEPT:
                del self._kept[folder]
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder not in self._kept:
                shutil.rmtree(folder, ignore_errors=True)


def links(folder: str) -> list[tuple[str, str]]:
    """The files of a result, each with its address on this site."""
    files = (
        sorted(path for path in Path(folder).rglob("*") if path.is_file()) if Path(folder).is_dir() else []
    )
    return [(path.name, f"gradio_api/file={quote(str(path))}") for path in files]

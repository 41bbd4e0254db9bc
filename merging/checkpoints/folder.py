"""A model in a folder."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from merging.problems import CheckpointError, Problem


class Folder:
    """The files of a folder, read with `preadv` straight into the caller's buffers."""

    is_remote = False

    def __init__(self, path: Path, only: str | None = None):
        """
        Args:
            path: of the folder
            only: the one file of it that counts
        """
        self.path = path
        self.name = str(path / only) if only else str(path)
        self.files: Mapping[str, int] = {}
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()
        stamps = {}
        # One level down is enough for a model and its chat templates.
        for entry in chain(path.glob("[!.]*"), path.glob("[!.]*/*")):
            if entry.is_file() and only in (None, entry.relative_to(path).as_posix()):
                status = entry.stat()
                stamps[entry.relative_to(path).as_posix()] = (status.st_size, status.st_mtime_ns)
        self.files = {name: size for name, (size, _) in stamps.items()}
        self.version = hashlib.sha256(repr(sorted(stamps.items())).encode()).hexdigest()[:40]

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        descriptor = self._descriptor(file)
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], start + done)
            if count == 0:
                message = f"{self.path / file} ends at byte {start + done}; {len(buffer) - done} more were expected."
                raise CheckpointError(
                    Problem("file-cut-short", message, "Copy or download it again.", self.name)
                )
            done += count

    def _descriptor(self, file: str) -> int:
        with self._lock:
            if file not in self._open:
                self._open[file] = os.open(self.path / file, os.O_RDONLY)
            return self._open[file]

    def interrupt(self) -> None:
        """Nothing to do: a read of a disk ends by itself."""

    def close(self) -> None:
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

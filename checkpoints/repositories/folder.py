"""A model in a folder."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.repository import Location

# Files that a folder keeps open: models of hundreds of files must not use up what a process may open.
MOST_OPEN = 32


class _OpenFile:
    """A file that is closed when the last one who reads it lets go of it."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


class Folder:
    """The files of a folder, read with `preadv` straight into the caller's buffers."""

    is_folder = True
    is_remote = False
    read_by = frozenset({"folder"})

    def __init__(self, path: Path, only: str | None = None):
        """
        Args:
            path: of the folder
            only: the one file of it that counts
        """
        self.path = path
        self.name = str(path / only) if only else str(path)
        self.files: Mapping[str, int] = {}
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
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
        if start + len(buffer) > self.files[file]:
            raise self._too_short(file, start, start + len(buffer))
        source = self._opened(file)
        done = 0
        while done < len(buffer):
            count = os.preadv(source.descriptor, [buffer[done:]], start + done)
            if count == 0:
                raise self._too_short(file, start, start + len(buffer))
            done += count

    def _too_short(self, file: str, start: int, end: int) -> CheckpointError:
        values = {"file": str(self.path / file), "start": start, "end": end}
        return CheckpointError(Problem("file-cut-short", values, self.name))

    def _opened(self, file: str) -> _OpenFile:
        with self._lock:
            if file not in self._open:
                while len(self._open) >= MOST_OPEN:
                    self._open.popitem(last=False)
                self._open[file] = _OpenFile(self.path / file)
            self._open.move_to_end(file)
            return self._open[file]

    def location(self, files: Iterable[str]) -> Location:
        return Location(self.name, self.version, is_folder=True)

    def interrupt(self) -> None:
        """Nothing to do: a read of a disk ends by itself."""

    def close(self) -> None:
        with self._lock:
            self._open.clear()

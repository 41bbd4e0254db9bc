"""A model in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from checkpoints.gguf_files import belongs
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.open_files import OpenFiles
from checkpoints.repositories.repository import Location


class Folder:
    """The files of a folder.

    Args:
        path: of the folder
        only: the one file of it that counts, with the other parts of the same model
    """

    is_folder = True
    read_by = frozenset({"folder"})

    def __init__(self, path: Path, only: str | None = None):
        self.path = path
        self.name = str(path / only) if only else str(path)
        self._open = OpenFiles()
        stamps = {}
        # One level down is enough for a model and its chat templates.
        for entry in chain(path.glob("[!.]*"), path.glob("[!.]*/*")):
            if entry.is_file() and (only is None or belongs(only, entry.relative_to(path).as_posix())):
                status = entry.stat()
                stamps[entry.relative_to(path).as_posix()] = (status.st_size, status.st_mtime_ns)
        self.files: Mapping[str, int] = {name: size for name, (size, _) in stamps.items()}
        self.version = hashlib.sha256(repr(sorted(stamps.items())).encode()).hexdigest()[:40]

    def is_local(self, file: str) -> bool:
        return True

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        end = start + len(buffer)
        try:
            if end > self.files[file]:
                raise EOFError
            self._open.read_into(f"{self.path}/{file}", start, buffer)
        except EOFError:
            values = {"file": str(self.path / file), "start": start, "end": end}
            raise CheckpointError(Problem("file-cut-short", values, self.name)) from None

    def location(self, files: Iterable[str]) -> Location:
        return Location(self.name, self.version, is_folder=True)

    def interrupt(self) -> None:
        """Nothing to do: a read of a disk ends by itself."""

    def close(self) -> None:
        self._open.close()

"""Bytes named by their sha256, in memory or in a folder."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast


class Blobs:
    """Content-addressed storage.

    Args:
        folder: where blobs are files; None keeps them in memory. A file is never held whole in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, bytes] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.part"):  # uploads that a stopped Hub never finished
                leftover.unlink()

    def __contains__(self, oid: str) -> bool:
        return oid in self._memory if self._folder is None else (self._folder / oid).is_file()

    def size(self, oid: str) -> int:
        """The blob's length in bytes."""
        return len(self._memory[oid]) if self._folder is None else (self._folder / oid).stat().st_size

    def open(self, oid: str) -> BinaryIO:
        """The blob, for reading; the caller closes it."""
        if self._folder is None:
            return io.BytesIO(self._memory[oid])  # shares the bytes
        return (self._folder / oid).open("rb", buffering=0)

    def read(self, oid: str) -> bytes:
        """The whole blob."""
        with self.open(oid) as file:
            return file.read()

    def create(self) -> BinaryIO:
        """An empty file to write a new blob to; end it with ``keep`` or ``discard``."""
        if self._folder is None:
            return io.BytesIO()
        part = tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", buffering=0, delete=False)  # noqa: SIM115
        return cast("BinaryIO", part)

    @staticmethod
    def sha256(file: BinaryIO) -> str:
        """The name that the content of ``file`` would get."""
        file.seek(0)
        return hashlib.file_digest(cast("Any", file), "sha256").hexdigest()

    def keep(self, file: BinaryIO, oid: str) -> None:
        """Store what was written to ``file`` as ``oid``, its sha256."""
        if isinstance(file, io.BytesIO):
            self._memory[oid] = file.getvalue()
        elif self._folder is not None:
            file.close()
            Path(file.name).replace(self._folder / oid)

    def discard(self, file: BinaryIO) -> None:
        """Forget a file that ``create`` gave."""
        file.close()
        if self._folder is not None:
            Path(file.name).unlink(missing_ok=True)

    def add(self, content: BinaryIO) -> str:
        """Store what ``content`` holds and return its sha256."""
        if self._folder is None:
            file: BinaryIO = io.BytesIO(content.read())
        else:
            shutil.copyfileobj(content, file := self.create(), 1 << 20)
        oid = self.sha256(file)
        self.keep(file, oid)
        return oid

    def drop_all_but(self, oids: set[str]) -> None:
        """Delete every blob that is not in ``oids``."""
        if self._folder is None:
            self._memory = {oid: content for oid, content in self._memory.items() if oid in oids}
            return
        for path in self._folder.iterdir():
            if path.name not in oids and path.suffix != ".part":
                path.unlink()

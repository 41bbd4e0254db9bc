"""What of the files in a folder is whole: for files that are written a part at a time, and a run that was killed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

# In the folder, until the run ends.
NAME = ".written-parts"
# Bytes of parts that are noted together. A part counts once it is on the disk, and waiting for that takes time.
BYTES = 256 << 20


class WrittenParts:
    """Names of parts that are on the disk.

    Args:
        folder: that the files are in
        made_of: identifies what is written; the parts of anything else do not count
    """

    def __init__(self, folder: Path, made_of: str):
        self._path = folder / NAME
        self._made_of = made_of
        self._lock = threading.Lock()
        self._noted: list[str] = []
        self._bytes = 0

    def read(self) -> frozenset[str]:
        """The parts that an earlier run of the same left here."""
        try:
            first, *names = self._path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return frozenset()
        # The last line may be cut.
        return frozenset(names[:-1]) if first == self._made_of else frozenset()

    def begin(self) -> None:
        """Start an empty one."""
        self._path.write_text(f"{self._made_of}\n", encoding="utf-8")

    def note(self, part: str, nbytes: int) -> None:
        """Note that a part of some bytes was written."""
        with self._lock:
            self._noted.append(part)
            self._bytes += nbytes
            if self._bytes < BYTES:
                return
            for path in self._path.parent.iterdir():
                _sync(path)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in self._noted)
            _sync(self._path)
            self._noted, self._bytes = [], 0

    def remove(self) -> None:
        """Remove it: the run has ended."""
        self._path.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

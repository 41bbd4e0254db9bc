"""Files of this machine that are read by ranges; only a few are open at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict

# Models of hundreds of files must not use up what a process may open.
MAX_OPEN = 32


class OpenFiles:
    """Reads files with `preadv` straight into the caller's buffers, and keeps the last ones open.

    Paths are text: a merge reads 100,000 blocks, and to hash a `Path` takes longer than the system's read.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of a file from offset `start` on.

        Raises:
            EOFError: the file ends before that.
            OSError: it cannot be read.
        """
        file = self._opened(path)
        done = 0
        while done < len(buffer):
            count = os.preadv(file.descriptor, [buffer[done:]], start + done)
            if count == 0:
                raise EOFError
            done += count

    def _opened(self, path: str) -> _OpenFile:
        with self._lock:
            if path not in self._open:
                while len(self._open) >= MAX_OPEN:
                    self._open.popitem(last=False)
                self._open[path] = _OpenFile(path)
            self._open.move_to_end(path)
            return self._open[path]

    def close(self) -> None:
        with self._lock:
            self._open.clear()


class _OpenFile:
    """A file that is closed when its last reader is done with it."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)

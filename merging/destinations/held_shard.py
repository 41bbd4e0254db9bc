"""A shard that is filled in memory, and sent when it is complete."""

from __future__ import annotations

import io
from collections.abc import Callable

from merging.destinations.destination import Stored


class HeldShard:
    """A shard that is filled in memory.

    Args:
        size: in bytes
        check: raises when the run is to stop
        full: sends the content when it is complete
    """

    def __init__(self, size: int, check: Callable[[], None], full: Callable[[io.BytesIO], Stored]):
        self._full = full
        self._content = Stoppable(check)
        self._content.seek(size - 1)
        self._content.write(b"\0")
        self._view = self._content.getbuffer()

    def write(self, offset: int, data: memoryview) -> None:
        self._view[offset : offset + len(data)] = data

    def close(self) -> Stored:
        self._view.release()
        self._content.seek(0)
        return self._full(self._content)


class Stoppable(io.BytesIO):
    """Bytes whose reader, the upload, ends when the run is to stop."""

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self._check = check

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)

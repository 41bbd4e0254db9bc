"""How glibc serves memory to this process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Bytes from which a buffer is served by mmap, and leaves nothing behind when it is freed.
_USUAL = 8 << 20
_from = _USUAL


def keep_heap() -> None:
    """Tell glibc to serve blocks from few heaps, and only large buffers by mmap.

    Left alone, glibc moves its threshold with each large buffer that is freed, and then keeps hundreds of MB
    in the arenas of threads that once held them; and each thread that reads gets an arena of its own.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc; musl has none
            mmap_threshold, trim_threshold, most_arenas = -3, -1, -8
            libc.mallopt(mmap_threshold, _from)
            libc.mallopt(trim_threshold, 64 * 1024 * 1024)
            libc.mallopt(most_arenas, 4)


@contextmanager
def buffers_by_mmap(nbytes: int) -> Iterator[None]:
    """Serve buffers of this many bytes by mmap already, also where `keep_heap` is called meanwhile.

    glibc cannot use the hole of an aligned block for another one of its size. So work that frees as many tensors as it
    keeps, such as a training, holds nearly twice as many bytes as its tensors have.
    """
    global _from
    _from = nbytes
    keep_heap()
    try:
        yield
    finally:
        _from = _USUAL
        keep_heap()

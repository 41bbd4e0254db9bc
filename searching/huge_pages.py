"""Memory in huge pages, for weights that are read and written as a whole, again and again.

In pages of 4 KiB a sum over the weights of a model takes up to half as long again.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress

import torch
from torch import Tensor

# Bytes of a mapping that tensors share; a larger tensor has one of its own. Pages without a tensor take no memory.
MAPPING = 32 * 2**20
# Tensors start at whole lines of the processor's cache.
LINE = 64


class HugePages:
    """Makes tensors in memory that the system may hold in huge pages: Linux does, others need not.

    A mapping is freed when none of its tensors is left.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mapping: mmap.mmap | None = None
        self._used = 0

    def zeros(self, elements: int, dtype: torch.dtype) -> Tensor:
        """A tensor of zeros, (elements,)."""
        size = elements * dtype.itemsize
        if not size or not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.zeros(elements, dtype=dtype)
        mapping, offset = self._room(size)
        return torch.frombuffer(mapping, dtype=dtype, count=elements, offset=offset)

    def _room(self, size: int) -> tuple[mmap.mmap, int]:
        """A mapping, and the offset of `size` free bytes in it."""
        if size > MAPPING:
            return _mapped(size), 0
        with self._lock:
            if self._mapping is None or self._used + size > MAPPING:
                self._mapping, self._used = _mapped(MAPPING), 0
            offset = self._used
            self._used += -(-size // LINE) * LINE
            return self._mapping, offset


def _mapped(size: int) -> mmap.mmap:
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping

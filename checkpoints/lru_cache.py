"""A cache of computed values, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """Keeps the values that were used last.

    Each is computed once, however many threads ask for it at the same time; others are served meanwhile.

    Args:
        limit: bytes of all values; one that is larger is kept alone
        nbytes: the size of a value

    Example:
        >>> squares = LruCache[bytes](limit=3, nbytes=len)
        >>> squares.get("ab", lambda: b"ab"), squares.get("ab", lambda: b"never")
        (b'ab', b'ab')
    """

    def __init__(self, limit: int, nbytes: Callable[[Value], int]):
        self._limit = limit
        self._nbytes = nbytes
        self._lock = threading.Lock()
        self._computing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._values: OrderedDict[str, Value] = OrderedDict()

    def get(self, key: str, compute: Callable[[], Value]) -> Value:
        """The value of a key, from `compute` if it is not kept."""
        with self._lock:
            computing = self._computing[key]
        with computing:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key]
            value = compute()
            with self._lock:
                self._values[key] = value
                size = sum(map(self._nbytes, self._values.values()))
                while size > self._limit and len(self._values) > 1:
                    size -= self._nbytes(self._values.popitem(last=False)[1])
            return value

"""What was found out a short while ago."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class TimedCache(Generic[Value]):
    """Keeps values for a while; of too many, the last ones.

    Args:
        seconds: that each is kept
        most: how many are kept
        clock: tells the seconds
    """

    def __init__(self, seconds: float, most: int, clock: Callable[[], float]):
        self._seconds, self._most, self._clock = seconds, most, clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, if it is still kept."""
        with self._lock:
            until, value = self._kept.get(key, (0.0, None))
            return value if self._clock() < until else None

    def keep(self, key: Hashable, value: Value) -> None:
        with self._lock:
            self._kept[key] = self._clock() + self._seconds, value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

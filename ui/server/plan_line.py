"""The line for plans: each visitor has one made at a time, others of theirs wait, and too many are refused."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from merging import MergeError, Problem


class PlanLine:
    """Who has a plan made, and who waits.

    Args:
        most_waiting: for one visitor
    """

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._present: Counter[str] = Counter()  # those at work and those that wait, by visitor
        self._at_work: set[str] = set()

    @contextmanager
    def turn(self, visitor: str) -> Iterator[None]:
        """Wait for the turn of a visitor, and keep it.

        Raises:
            MergeError: too many of this visitor wait already.
        """
        with self._changed:
            if self._present[visitor] > self._most_waiting:
                raise MergeError(Problem("too-many-plans", {"count": self._present[visitor]}))
            self._present[visitor] += 1
            self._changed.wait_for(lambda: visitor not in self._at_work)
            self._at_work.add(visitor)
        try:
            yield
        finally:
            with self._changed:
                self._at_work.discard(visitor)
                self._present[visitor] -= 1
                if not self._present[visitor]:
                    del self._present[visitor]
                self._changed.notify_all()

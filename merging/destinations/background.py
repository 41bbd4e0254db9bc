"""Sending in the background: how many files may be under way, and jobs that are done one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds that a cancelled merge waits for what is being sent. A host that stalls is not waited for.
STOP_SECONDS = 1.5
# Seconds between two checks whether a wait is to end.
PULSE = 0.1


class Slots:
    """A limit to what is under way at a time, that can be waited for and lowered."""

    def __init__(self, count: int):
        self._count = count
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, check: Callable[[], None]) -> None:
        """Wait for a slot; `check` is called meanwhile and raises to stop."""
        with self._changed:
            while self._taken >= self._count:
                check()
                self._changed.wait(PULSE)
            self._taken += 1

    def give_back(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()

    @contextmanager
    def taken(self, check: Callable[[], None]) -> Iterator[None]:
        self.take(check)
        try:
            yield
        finally:
            self.give_back()

    def lower(self, count: int) -> None:
        """From now on, give out a slot only while fewer than `count` are taken."""
        with self._changed:
            self._count = count


class Background:
    """Does jobs in order in a thread, up to the first that fails.

    The thread is a daemon: a process that was told to stop does not wait for a host that stalls.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Put a job in the queue.

        Raises:
            BaseException: an earlier job raised it.
        """
        if self._error:
            raise self._error
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        with self._changed:
            self._waiting += 1
        self._jobs.put(job)

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until every job is done; `check` is called meanwhile and raises to stop.

        Raises:
            BaseException: a job raised it.
        """
        with self._changed:
            while not self._changed.wait_for(lambda: not self._waiting, timeout=PULSE):
                check()
        if self._error:
            raise self._error

    def settle(self, seconds: float) -> None:
        """Wait until every job is done or cannot be, but no longer than this; not at all once it was stopped."""
        with self._changed:
            if self._thread:
                self._changed.wait_for(lambda: not self._waiting, seconds)

    def stop(self) -> None:
        """End the thread, if it can be ended soon; once that was tried, it is left alone."""
        if self._thread:
            self._jobs.put(None)
            self._thread.join(STOP_SECONDS)
            self._thread = None

    def _run(self) -> None:
        while job := self._jobs.get():
            try:
                if self._error is None:
                    job()
            except BaseException as error:
                self._error = error
            finally:
                with self._changed:
                    self._waiting -= 1
                    self._changed.notify_all()

"""Long work behind a page: told while it goes, and ended when the visitor stops it or leaves."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

HEARTBEAT = 0.5  # seconds after which a page that has gone, or a visitor who has enough, is noticed

# What is given a function that takes news, and an event that ends it.
Work = Callable[[Callable[[Any], None], threading.Event], Any]


@dataclass(frozen=True)
class _Ended:
    result: Any = None
    error: Exception | None = None


def watched(work: Work, *, seconds: float | None = None) -> Generator[Any, None, None]:
    """Run work in a thread of its own, and yield the newest of what it tells.

    Args:
        work: called with a function that takes news, and with an event that is set when nobody listens any more
        seconds: after which that event is set in any case

    Yields:
        What it tells, None where there is nothing new, and last what it returns.

    Raises:
        Exception: whatever ended it.
    """
    cancel = threading.Event()
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            news.put(_Ended(work(news.put, cancel)))
        except Exception as error:
            news.put(_Ended(error=error))

    # In the visitor's context, which knows the language.
    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    began = time.monotonic()
    try:
        while True:
            try:
                said = news.get(timeout=HEARTBEAT)
            except queue.Empty:
                said = None
            if seconds is not None and time.monotonic() - began > seconds:
                cancel.set()
            if isinstance(said, _Ended):
                if said.error:
                    raise said.error
                yield said.result
                return
            if said is None or news.empty():
                yield said
    finally:
        cancel.set()


class Stops:
    """A Stop button for the work of each page. Gradio's own `cancels` answers 500 when it comes between two pieces."""

    def __init__(self) -> None:
        self._running: dict[str, threading.Event] = {}

    @contextmanager
    def begun(self, request: gr.Request) -> Iterator[threading.Event]:
        """While the work runs, the event that this page's Stop sets."""
        asked = threading.Event()
        self._running[str(request.session_hash)] = asked
        try:
            yield asked
        finally:
            if self._running.get(str(request.session_hash)) is asked:
                del self._running[str(request.session_hash)]

    def stop(self, request: gr.Request) -> None:
        """What a Stop button does."""
        if asked := self._running.get(str(request.session_hash)):
            asked.set()

"""Long work behind a page: told while it goes, and ended when the visitor stops it or leaves."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Turn:
    """Work on its way: whether it shall end, and whether it shall leave nothing behind."""

    stopped: threading.Event = field(default_factory=threading.Event)
    forgotten: threading.Event = field(default_factory=threading.Event)


class Turns:
    """The work on its way, by page, for its buttons. Gradio's own `cancels` answers 500 when it comes between two
    pieces, and then marks the fields as failed."""

    def __init__(self) -> None:
        self._by_page: dict[str, Turn] = {}

    @contextmanager
    def of(self, request: gr.Request) -> Iterator[Turn]:
        """A turn of this page, while it lasts."""
        page = str(request.session_hash)
        turn = self._by_page[page] = Turn()
        try:
            yield turn
        finally:
            if self._by_page.get(page) is turn:
                del self._by_page[page]

    def stop(self, request: gr.Request) -> None:
        """End what this page is being told: what a Stop button does."""
        if turn := self._by_page.get(str(request.session_hash)):
            turn.stopped.set()

    def forget(self, request: gr.Request) -> None:
        """End it, and leave nothing of it."""
        if turn := self._by_page.get(str(request.session_hash)):
            turn.forgotten.set()

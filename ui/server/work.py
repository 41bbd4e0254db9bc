"""Long work behind a page: reports progress, and ends when the visitor stops it or leaves."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr

from checkpoints.problems import Cancelled

State = TypeVar("State")

HEARTBEAT = 0.5  # seconds until a closed page, or a press of Stop, is noticed

# Called with a function that reports progress, and an event that cancels the work.
Work = Callable[[Callable[[Any], None], threading.Event], Any]


@dataclass(frozen=True)
class _Ended:
    result: Any = None
    error: Exception | None = None


def watched(work: Work, *, seconds: float | None = None) -> Generator[Any, None, None]:
    """Run work in its own thread, and yield its latest report.

    Args:
        work: called with a function that reports progress, and an event that is set when this generator is closed
        seconds: time limit, after which that event is set as well

    Yields:
        Reports, None every HEARTBEAT seconds without one, and finally what the work returns.

    Raises:
        Exception: what the work raised.
    """
    cancel = threading.Event()
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            news.put(_Ended(work(news.put, cancel)))
        except Exception as error:
            news.put(_Ended(error=error))

    # In the visitor's context, which holds the language.
    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    began = time.monotonic()
    try:
        while True:
            try:
                report = news.get(timeout=HEARTBEAT)
            except queue.Empty:
                report = None
            if seconds is not None and time.monotonic() - began > seconds:
                cancel.set()
            if isinstance(report, _Ended):
                if report.error:
                    raise report.error
                yield report.result
                return
            if report is None or news.empty():
                yield report
    finally:
        cancel.set()


def followed(
    news: Generator[Any, None, None],
    state: State,
    report: Callable[[State], None],
    cancel: threading.Event,
) -> State:
    """Report each state of a job that another process runs, and close what yields them when the job is cancelled.

    Args:
        news: yields states, and None now and then
        state: before the first of them

    Returns:
        The last state.

    Raises:
        ProblemError: the work raised it.
        Cancelled: it was stopped.
    """
    with closing(news):
        for found in news:
            if cancel.is_set():
                raise Cancelled
            if found is not None:
                state = found
                report(state)
    return state


@dataclass(frozen=True)
class Turn:
    """Work that is running: whether to stop it, and whether to discard what it made."""

    stopped: threading.Event = field(default_factory=threading.Event)
    forgotten: threading.Event = field(default_factory=threading.Event)


class Turns:
    """The running work of each page, for its buttons. Gradio's own `cancels` answers 500 when it arrives between two
    updates, and then marks the fields as failed."""

    def __init__(self) -> None:
        self._running: set[tuple[str, Turn]] = set()

    @contextmanager
    def of(self, request: gr.Request) -> Iterator[Turn]:
        """A turn of this page, for the duration of the context."""
        one = str(request.session_hash), Turn()
        self._running.add(one)
        try:
            yield one[1]
        finally:
            self._running.discard(one)

    def stop(self, request: gr.Request) -> None:
        """Stop the work of this page: what a Stop button does."""
        for turn in self._of_page(request):
            turn.stopped.set()

    def forget(self, request: gr.Request) -> None:
        """Stop it, and discard what it made."""
        for turn in self._of_page(request):
            turn.forgotten.set()

    def _of_page(self, request: gr.Request) -> list[Turn]:
        return [turn for page, turn in self._running.copy() if page == str(request.session_hash)]

"""Checks in a fork of the tests' own process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress


def forked(check: Callable[[], object], seconds: int = 120) -> int:
    """Run a check in a fork of this process, which runs nothing else; returns the fork's id.

    Args:
        check: it holds if it returns what counts as true
        seconds: until the fork is killed, which may wait for a lock that no thread of it holds
    """
    if child := os.fork():
        return child
    # Whatever happens, it must not continue with the tests of its parent.
    with suppress(BaseException):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        os._exit(0 if check() else 1)
    os._exit(1)


def status(child: int) -> int:
    """Wait for a fork; returns its exit status: 0 if its check held."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

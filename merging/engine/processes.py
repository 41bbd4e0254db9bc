"""Workers that are processes, forked from this one when it runs alone.

Threads of one Python take turns: the arithmetic runs beside them, but each hand-over costs about as much as a block's
arithmetic does, and two threads were seen to be hardly faster than one. Processes do not wait for each other. They
share nothing but two pipes: numbers of tasks come in by one, and go out by the other when they are done.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from checkpoints.problems import MergeError, Problem

# A number in a pipe; as one write of so few bytes it arrives whole, whoever reads.
NUMBER = 4
# Bytes that a pipe takes at once or not at all.
ATOMIC = 4096
# Seconds between two looks at what the caller wants.
PULSE = 0.1


def can_fork() -> bool:
    """Whether processes may be forked: where that is sound, and no other thread could hold a lock meanwhile."""
    return sys.platform == "linux" and threading.active_count() == 1


def run_forked(
    tasks: int,
    work: Callable[[Iterator[int]], Iterator[int]],
    workers: int,
    done: Callable[[int], None],
    pulse: Callable[[], None],
) -> None:
    """Let processes do tasks with the numbers 0 to `tasks` - 1, each by the first that is free, in this order.

    Args:
        tasks: how many there are
        work: runs in each process: takes numbers, and yields them when they are done
        workers: how many processes
        done: called in this process for every number that is done
        pulse: called in this process ten times a second; what it raises ends all workers and is raised

    Raises:
        MergeError: that `work` raised in one of the processes, or one of them was killed
    """
    numbers, to_do = os.pipe()
    finished, to_tell = os.pipe()
    errors, to_complain = os.pipe()
    os.set_blocking(to_do, False)
    gc.freeze()  # the collector would touch, and so copy, every page of the processes' common memory
    children: list[int] = []
    open_ends = {numbers, to_do, finished, to_tell, errors, to_complain}

    def close(*ends: int) -> None:
        for end in ends:
            if end in open_ends:
                open_ends.remove(end)
                os.close(end)

    try:
        for _ in range(workers):
            child = os.fork()
            if child == 0:
                # A process that ends by os._exit runs nobody's clean-up, flushes nothing and returns nowhere.
                os._exit(_child(work, numbers, to_tell, to_complain, (to_do, finished, errors)))
            children.append(child)
        close(numbers, to_tell, to_complain)
        due = 0.0
        waiting = b"".join(number.to_bytes(NUMBER, "little") for number in range(tasks))
        while True:
            readable, writable, _ = select.select(
                [finished], [to_do] if to_do in open_ends else [], [], PULSE
            )
            if writable:
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    waiting = waiting[os.write(to_do, waiting[:ATOMIC]) :]
                if not waiting:
                    close(to_do)
            if readable:
                told = os.read(finished, ATOMIC)
                if not told:
                    break
                for place in range(0, len(told), NUMBER):
                    done(int.from_bytes(told[place : place + NUMBER], "little"))
            if time.monotonic() >= due:
                due = time.monotonic() + PULSE
                pulse()
        statuses = [os.waitstatus_to_exitcode(os.waitpid(children.pop(), 0)[1]) for _ in range(workers)]
        if any(statuses):
            raise _complaint(errors, statuses)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        close(*open_ends.copy())
        gc.unfreeze()


def _child(
    work: Callable[[Iterator[int]], Iterator[int]],
    numbers: int,
    to_tell: int,
    to_complain: int,
    others: tuple[int, ...],
) -> int:
    """What a forked process does; returns its exit status."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent answers it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for end in others:
            os.close(end)

        def taken() -> Iterator[int]:
            while number := os.read(numbers, NUMBER):
                yield int.from_bytes(number, "little")

        for number in work(taken()):
            os.write(to_tell, number.to_bytes(NUMBER, "little"))
    except BaseException as error:
        known = error if isinstance(error, MergeError) else RuntimeError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            os.write(to_complain, pickle.dumps(known)[: 16 * ATOMIC])
        return 1
    return 0


def _complaint(errors: int, statuses: list[int]) -> BaseException:
    """What the first process that failed said, or that it was killed."""
    said = os.read(errors, 16 * ATOMIC)
    if said:
        error: BaseException = pickle.loads(said)  # of a process of our own
        return error
    number = next(-status for status in statuses if status < 0)
    message = f"A process that merged was killed ({signal.Signals(number).name})."
    fix = "The machine may be short of memory: try fewer `--workers`."
    return MergeError(Problem("killed", message, fix))

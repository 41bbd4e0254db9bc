"""Workers that are processes: all tasks once, errors as they were raised, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from merging import Cancelled, CheckpointError, MergeError, Problem, make_plan, read_recipe, run_plan
from merging.engine.processes import can_fork, run_forked
from tests import ROOT
from tests.merges import files, ties

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


def nothing() -> None:
    """A pulse that is heard by nobody."""


# What other tests started: a server that forks lives as long as the run.
OTHERS: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    OTHERS.clear()
    OTHERS.update(psutil.Process().children())


def children() -> set[psutil.Process]:
    return set(psutil.Process().children()) - OTHERS


def test_every_task_is_done_once() -> None:
    told: list[int] = []

    run_forked(5000, lambda numbers: numbers, 3, told.append, nothing)

    assert sorted(told) == list(range(5000))
    assert not children()


def test_the_pulse_is_no_faster_than_a_bar_is_drawn() -> None:
    pulses: list[int] = []

    run_forked(5000, lambda numbers: numbers, 2, lambda _: None, lambda: pulses.append(1))

    assert len(pulses) < 100


def test_an_error_is_raised_as_it_was() -> None:
    problem = Problem("file-cut-short", "It ends.", "Copy it again.", "a/b")

    def work(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            if number == 7:
                raise CheckpointError(problem)
            yield number

    with pytest.raises(CheckpointError) as caught:
        run_forked(100, work, 2, lambda _: None, nothing)

    assert caught.value.problems == (problem,)
    assert not children()


def test_an_error_that_nobody_foresaw_is_told_too() -> None:
    def work(numbers: Iterator[int]) -> Iterator[int]:
        yield from (1 // number for number in numbers)

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_forked(3, work, 2, lambda _: None, nothing)


def test_a_process_that_is_killed_is_told() -> None:
    def work(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield number

    with pytest.raises(MergeError, match=r"killed .SIGKILL.*memory"):
        run_forked(10, work, 2, lambda _: None, nothing)


def test_a_stop_ends_all_at_once() -> None:
    def work(numbers: Iterator[int]) -> Iterator[int]:
        for _ in numbers:
            signal.pause()
        yield 0

    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run_forked(10, work, 3, lambda _: None, stop)

    assert not children()


def test_not_beside_other_threads() -> None:
    import threading

    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert not can_fork()
    finally:
        end.set()
        thread.join()


def test_the_same_bytes_as_threads(folder: Path, tmp_path: Path) -> None:
    """This process has threads (its Hub is one), a fresh one has none."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(ties(folder))
    plan = make_plan(read_recipe(ties(folder)), str(tmp_path / "threads" / "out"), shard_size=150_000)
    run_plan(plan, str(tmp_path / "threads" / "out"), workers=2)
    code = """
import sys, merging.engine.processes as crew, merging.engine.run as execution
from merging.__main__ import main
ran = []
execution.run_forked = lambda *args: (ran.append(args[2]), crew.run_forked(*args))
status = main(sys.argv[1:])
assert ran == [3], ran
sys.exit(status)
"""
    command = [
        "run",
        str(recipe),
        "--to",
        str(tmp_path / "forked" / "out"),
        "--shard-size",
        "150kB",
        "--workers",
        "3",
    ]

    subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, check=True)

    assert files(tmp_path / "forked" / "out") == files(tmp_path / "threads" / "out")

"""Functions in a process of their own: an answer, or an error that leaves this process unharmed."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from checkpoints.confined import MAX_ANSWER, NICENESS, Confined, ConfinedError, LimitError
from tests.forks import forked, status

kept: list[bytearray] = []


def work(how: str) -> Any:
    """What the tests ask of the other process."""
    if how == "spin":
        while True:
            pass
    if how == "fill":
        return len(bytearray(2 << 30))
    if how == "die":
        os._exit(1)
    if how == "print":
        print("not an answer")
        sys.stdout.flush()
    if how == "wait":
        sys.stdin.read(0)
        time.sleep(60)
    if how == "doze":
        time.sleep(3)
    if how == "niceness":
        return [os.getpid(), os.getpriority(os.PRIO_PROCESS, 0)]
    if how == "take long":
        began = time.process_time()
        with ThreadPoolExecutor(1) as pool:  # a thread that works while the first one waits
            return pool.submit(until_nice, began + 60).result()
    if how == "grow":
        kept.append(bytearray(400 << 20))
    if how == "long":
        return "x" * (MAX_ANSWER + 1)
    if how == "prepared":
        return [len(kept), os.getpid()]
    if how == "secrets":
        return sorted(os.environ)
    if how == "raise":
        raise ValueError("no such thing")
    return os.getpid()


def until_nice(end: float) -> int:
    while time.process_time() < end and not os.getpriority(os.PRIO_PROCESS, 0):
        pass
    return os.getpriority(os.PRIO_PROCESS, 0)


def prepare() -> None:
    end = time.process_time() + 1.5
    while time.process_time() < end:
        pass
    kept.append(bytearray(1))


def other(argument: Any) -> Any:
    return [os.getpid(), argument]


@pytest.fixture
def confined() -> Confined:
    return Confined(__name__, work.__name__, seconds=1, memory=1 << 30)


def test_the_process_is_kept(confined: Confined) -> None:
    first = confined("pid")

    assert first != os.getpid()
    assert confined("print") == confined("pid") == first


def test_an_exception_keeps_the_process(confined: Confined) -> None:
    first = confined("pid")

    with pytest.raises(ConfinedError, match="ValueError: no such thing"):
        confined("raise")
    assert confined("pid") == first


def test_a_call_that_waits_for_a_busy_machine_has_time(confined: Confined) -> None:
    assert confined("doze") == confined("pid")


def test_a_call_that_only_waits_has_a_deadline() -> None:
    confined = Confined(__name__, work.__name__, seconds=60, memory=1 << 30, wait=5)

    with pytest.raises(LimitError):
        confined("wait")


def test_calls_run_side_by_side_and_the_others_wait() -> None:
    confined = Confined(__name__, work.__name__, seconds=10, memory=1 << 30, workers=2)

    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(confined, ["pid"] * 6))

    assert 1 <= len(found) <= 2


def test_a_call_that_takes_long_leaves_the_processor_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoints.confined.LONG", 0.5)
    confined = Confined(__name__, work.__name__, seconds=60, memory=1 << 30)
    first, before = confined("niceness")

    assert confined("take long") == NICENESS

    second, after = confined("niceness")
    assert (before, after) == (0, 0)
    assert second != first


def test_getting_ready_counts_for_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoints.confined.LONG", 0.5)
    confined = Confined(__name__, work.__name__, ready=prepare.__name__, seconds=1, memory=1 << 30)

    first = confined("prepared")

    assert first[0] == 1
    assert confined("prepared") == first
    assert confined("niceness") == [first[1], 0]


def test_one_visitors_limit_is_not_anothers() -> None:
    confined = Confined(__name__, work.__name__, seconds=2, memory=1 << 30, workers=2)

    with ThreadPoolExecutor(1) as pool:
        spinning = pool.submit(confined, "spin")
        answers = [confined("pid") for _ in range(3)]
        with pytest.raises(LimitError):
            spinning.result()

    assert all(answers)


def test_memory_that_a_process_keeps_comes_back(confined: Confined) -> None:
    first = confined("grow")

    assert confined("pid") != first


def test_a_defect_keeps_its_traceback_for_the_log(confined: Confined) -> None:
    with pytest.raises(ConfinedError) as raised:
        confined("raise")

    assert "in work" in "".join(raised.value.__notes__)


def test_a_fork_has_processes_of_its_own(confined: Confined) -> None:
    confined("pid")

    assert status(forked(lambda: confined("pid"), seconds=60)) == 0
    assert confined("pid")


@pytest.mark.parametrize("how", ["spin", "die"])
def test_a_process_that_dies_is_replaced(confined: Confined, how: str) -> None:
    first = confined("pid")
    began = time.thread_time()

    with pytest.raises(ConfinedError, match="limit"):
        confined(how)

    assert time.thread_time() - began < 1  # this process only waited
    assert confined("pid") != first


def test_memory_is_limited(confined: Confined) -> None:
    with pytest.raises(ConfinedError, match=r"MemoryError|limit"):
        confined("fill")


def test_it_sees_no_secrets(confined: Confined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    assert "HF_TOKEN" not in confined("secrets")


def test_another_function_shares_the_process(confined: Confined) -> None:
    assert confined.beside(__name__, other.__name__)([1, 2]) == [confined("pid"), [1, 2]]

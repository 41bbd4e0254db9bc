"""One plan at a time for a visitor."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from merging import MergeError
from tests.merges import wait_for
from ui.server.plan_line import PlanLine


def test_a_visitor_has_one_plan_made_at_a_time_and_others_do_not_wait() -> None:
    line, at_work, most = PlanLine(5), 0, 0
    lock = threading.Lock()

    def plan(_: int) -> None:
        nonlocal at_work, most
        with line.turn("ann"):
            with lock:
                at_work += 1
                most = max(most, at_work)
            with line.turn("bob"):  # who is not held up by ann
                pass
            with lock:
                at_work -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(plan, range(6)))

    assert most == 1
    assert not line._present


def test_too_many_are_refused_at_once() -> None:
    line, go = PlanLine(1), threading.Event()

    def plan() -> None:
        with line.turn("ann"):
            assert go.wait(60)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(plan), pool.submit(plan)
        wait_for(lambda: line._present["ann"] == 2)
        with pytest.raises(MergeError, match="2 plans"), line.turn("ann"):
            pass
        with line.turn("bob"):
            pass
        go.set()
        first.result(), second.result()

"""Jobs: one at a time, in turns, watched by id, stopped at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from merging import Cancelled, MergeError, Problem, Progress, Result
from ui.languages.korean import KOREAN
from ui.languages.translate import speaking
from ui.server.jobs import MAX_FINISHED, MAX_JOBS, MAX_JOBS_OF_A_VISITOR, JobBoard, JobStatus, MergeRequest

SECRET = "hf_" + "s3cr3t" * 4
RESULT = Result("hf://you/merge", "https://hub/you/merge", "abc", 10, 1.0)
Watch = Callable[[Progress], None]


def progress(done: int, phase: str = "merge") -> Progress:
    return Progress(phase, done, 100, done // 10, 10, "")


def quick(watch: Watch, cancel: threading.Event) -> Result:
    watch(progress(100))
    return RESULT


class Held:
    """Work that waits until it is let go, and stops when told to."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()

    def __call__(self, watch: Watch, cancel: threading.Event) -> Result:
        self.started.set()
        watch(progress(30))
        while not self.go.wait(0.005):
            if cancel.is_set():
                raise Cancelled
        return RESULT


def until(board: JobBoard, job: str, state: str) -> JobStatus:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        snapshot = board.status(job)
        assert snapshot is not None
        if snapshot.state == state:
            return snapshot
        time.sleep(0.005)
    raise AssertionError(f"{snapshot} is not {state}")


def test_a_job_runs_and_its_result_stays() -> None:
    board = JobBoard()

    job = board.submit("me", "you/merge", ("a/a", "b/b"), quick)

    done = until(board, job, "done")
    assert (done.result, done.title, done.models, done.is_live) == (
        RESULT,
        "you/merge",
        ("a/a", "b/b"),
        False,
    )
    assert [line for _, line in done.log] == ["queued", "started", "Merging tensors", "done: hf://you/merge"]


def test_progress_is_seen_while_it_runs() -> None:
    board, held = JobBoard(), Held()
    job = board.submit("me", "x", (), held)
    assert held.started.wait(60)

    snapshot = until(board, job, "running")
    while snapshot.progress is None:
        snapshot = until(board, job, "running")

    assert (snapshot.progress.bytes_done, snapshot.progress.tensors_done) == (30, 3)
    held.go.set()
    until(board, job, "done")


def test_rate_and_time_left_come_from_the_last_seconds() -> None:
    now = [0.0]
    board, step, seen = JobBoard(clock=lambda: now[0]), threading.Event(), threading.Event()

    def work(watch: Watch, cancel: threading.Event) -> Result:
        for done in range(0, 60, 10):
            now[0] += 4.0
            watch(progress(done))
        seen.set()
        step.wait(60)
        return RESULT

    job = board.submit("me", "x", (), work)
    assert seen.wait(60)

    snapshot = board.status(job)

    assert snapshot is not None
    assert (snapshot.rate, snapshot.seconds_left) == (2.5, 20.0)
    step.set()


def test_one_runs_at_a_time_and_visitors_take_turns() -> None:
    board, first, order = JobBoard(), Held(), list[str]()

    def noted(name: str) -> Callable[[Watch, threading.Event], Result]:
        def work(watch: Watch, cancel: threading.Event) -> Result:
            order.append(name)
            return RESULT

        return work

    board.submit("ann", "a1", (), first)
    assert first.started.wait(60)
    jobs = [
        board.submit(visitor, name, (), noted(name))
        for visitor, name in (("ann", "a2"), ("ann", "a3"), ("bob", "b1"), ("cid", "c1"))
    ]

    waiting = [board.status(job) for job in jobs]
    first.go.set()
    for job in jobs:
        until(board, job, "done")

    assert [(s.state, s.position) for s in waiting if s] == [("waiting", p) for p in (3, 4, 1, 2)]
    assert order == ["b1", "c1", "a2", "a3"]


def test_a_running_job_stops_and_the_next_begins() -> None:
    board, held = JobBoard(), Held()
    job, after = board.submit("me", "x", (), held), board.submit("me", "y", (), quick)
    assert held.started.wait(60)

    assert board.cancel(job)

    assert until(board, job, "cancelled").result is None
    until(board, after, "done")
    assert not board.cancel(job)


def test_a_waiting_job_is_stopped_at_once_and_never_runs() -> None:
    board, held, ran = JobBoard(), Held(), list[int]()

    def work(watch: Watch, cancel: threading.Event) -> Result:
        ran.append(1)
        return RESULT

    board.submit("me", "x", (), held)
    job = board.submit("me", "y", (), work)
    assert held.started.wait(60)

    board.cancel(job)

    assert until(board, job, "cancelled").position == 0
    held.go.set()
    until(board, board.submit("me", "z", (), quick), "done")
    assert not ran


def test_the_work_and_its_token_are_dropped_at_the_end() -> None:
    board = JobBoard()

    def work(watch: Watch, cancel: threading.Event, token: str = SECRET) -> Result:
        return RESULT

    job = board.submit("me", "x", (), work)
    until(board, job, "done")

    assert board._jobs[job].work is None


def test_errors_are_told_without_tokens(caplog: pytest.LogCaptureFixture) -> None:
    board = JobBoard()

    def refused(watch: Watch, cancel: threading.Event) -> Result:
        raise MergeError(
            Problem("unreadable", {"file": [SECRET], "start": 0, "end": 1, "reason": SECRET}, SECRET)
        )

    def broken(watch: Watch, cancel: threading.Event) -> Result:
        raise ZeroDivisionError(f"with {SECRET}")

    failed = [until(board, board.submit("me", "x", (), work), "failed") for work in (refused, broken)]

    assert [(p.code, p.fix != "") for job in failed for p in job.problems] == [
        ("unreadable", True),
        ("job-defect", True),
    ]
    assert "ZeroDivisionError" in failed[1].problems[0].message
    assert "ZeroDivisionError" in caplog.text  # the server's log has the whole story
    assert SECRET not in repr(failed) + caplog.text


def test_a_visitor_and_the_line_have_limits() -> None:
    board, held = JobBoard(), Held()
    for _ in range(MAX_JOBS_OF_A_VISITOR):
        board.submit("me", "x", (), held)

    with pytest.raises(MergeError, match=str(MAX_JOBS_OF_A_VISITOR)):
        board.submit("me", "x", (), held)

    for i in range(MAX_JOBS - MAX_JOBS_OF_A_VISITOR):
        board.submit(f"other {i}", "x", (), held)
    with pytest.raises(MergeError, match="full"):
        board.submit("late", "x", (), held)
    held.go.set()


def test_the_oldest_finished_jobs_are_forgotten() -> None:
    board = JobBoard()
    first = board.submit("me", "x", (), quick)
    until(board, first, "done")
    for _ in range(MAX_FINISHED + 1):
        until(board, board.submit("me", "x", (), quick), "done")

    assert board.status(first) is None


def test_ids_cannot_be_guessed() -> None:
    board = JobBoard()
    ids = {board.submit("a", "x", (), quick), board.submit("b", "x", (), quick)}

    assert len(ids) == 2
    assert all(len(job) >= 32 for job in ids)
    assert board.status("1") is None
    assert not board.cancel("1")


def test_a_waiting_job_knows_about_when_it_begins() -> None:
    clock = [100.0]
    board, held = JobBoard(lambda: clock[0]), Held()
    board.submit("me", "first", (), held, MergeRequest(seconds=60))
    assert held.started.wait(60)
    second = board.submit("you", "second", (), quick, MergeRequest(seconds=30))
    third = board.submit("they", "third", (), quick, MergeRequest("merge_method: linear", seconds=10))
    clock[0] += 20

    waits = [board.status(job) for job in (second, third)]

    assert [(job.position, job.seconds_to_wait) for job in waits if job] == [(1, 40.0), (2, 70.0)]
    assert waits[1] and waits[1].request.recipe == "merge_method: linear"
    held.go.set()


def test_a_job_speaks_the_language_of_who_asked() -> None:
    board = JobBoard()
    with speaking("ko"):
        job = board.submit("me", "x", (), quick)

    done = until(board, job, "done")

    assert [line for _, line in done.log][1] == KOREAN.page["jobs.log.started"]

"""Merges and searches that run on the server, whether or not anyone is watching.

A job has an unguessable id; anyone who knows it may look at the job and stop it. One job runs at a time; the others
wait in a line that takes turns between visitors. Jobs are kept in memory, for as long as the server runs. The work is a
closure that may hold a token: it is dropped when the job ends, and is never part of what is shown.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Literal

from checkpoints.problems import ProblemError
from merging import Cancelled, MergeError, Problem, Progress, Result
from ui.languages.translate import t
from ui.server.heal_state import HealState
from ui.server.internal_error import log_unexpected, redact_problem
from ui.server.search_state import SearchState

MAX_JOBS = 32
MAX_JOBS_OF_A_VISITOR = 3
MAX_FINISHED = 100
# Rented machines that are followed at a time: of a visitor, and of all.
MAX_RENTED_OF_A_VISITOR, MAX_RENTED = 6, 64
# Seconds over which the rate is averaged: long enough to be steady, short enough to be current.
RATE_WINDOW = 10.0

State = Literal["waiting", "running", "done", "failed", "cancelled"]
# A merge reports its progress, or lines of a log, and returns a result; a search or a training does both with its
# state.
MergeWork = Callable[[Callable[[Progress | str], None], threading.Event], Result]
SearchWork = Callable[[Callable[[SearchState], None], threading.Event], SearchState]
HealWork = Callable[[Callable[[HealState], None], threading.Event], HealState]


@dataclass(frozen=True)
class ModelSummary:
    """A model of a merge, or its result.

    Args:
        layers: of the longest stack; 0 where there is none
        bytes: of the weights
    """

    name: str
    architecture: str
    parameters: int
    layers: int
    bytes: int


@dataclass(frozen=True)
class Rented:
    """Work on a rented machine.

    Args:
        namespace: the account that pays
        id: of the Hub's job
        flavor: the Hub's name of the machine
        url: the job's page on the Hub
        weights: bytes of all weight files of the result; 0 where only GGUF files are made, and where that is not known
        work: "merge", "heal" or "search"
    """

    namespace: str
    id: str
    flavor: str
    url: str
    weights: int
    work: str = "merge"


@dataclass(frozen=True)
class MergeRequest:
    """What a visitor asked for, complete enough to ask for it again.

    Args:
        recipe: the text
        to: destination, as `run_plan` takes it
        private: whether a new repository is private
        overwrite: whether an existing model gets a new revision
        pull_request: whether an existing model gets a pull request
        seconds: as the plan estimates
        download: the result is a folder of this server, for the visitor to download
        summaries: the parents and then the result, for comparison
        card: the model card that the result will have
        gguf: types of GGUF files
        only_gguf: whether nothing else is made
        rented: the machine, if it is not this one
        training: the document with `train:` behind the recipe; empty for a merge
    """

    recipe: str = ""
    to: str = ""
    private: bool = True
    overwrite: bool = False
    seconds: float = 0.0
    download: bool = False
    pull_request: bool = False
    summaries: tuple[ModelSummary, ...] = ()
    card: str = ""
    gguf: tuple[str, ...] = ()
    only_gguf: bool = False
    rented: Rented | None = None
    training: str = ""


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment, as its visitor may see it.

    Args:
        position: in line, from 1, while it waits
        rate: recent bytes of output per second
        seconds_left: None while unknown
        elapsed: seconds since it began to run; its total time once it ended
        log: lines of (seconds since the request, text)
        stopping: it was asked to stop and still runs
        seconds_to_wait: until it begins, by the plans of the jobs before it
        request: what the visitor asked for
        search: of a search, what it has found so far
        heal: of a training, how far it is
        asked_at: when it was asked for, in seconds since 1970; 0 if that is unknown
    """

    id: str
    title: str
    models: tuple[str, ...]
    state: State
    position: int = 0
    progress: Progress | None = None
    rate: float = 0.0
    seconds_left: float | None = None
    elapsed: float = 0.0
    log: tuple[tuple[float, str], ...] = ()
    problems: tuple[Problem, ...] = ()
    result: Result | None = None
    stopping: bool = False
    seconds_to_wait: float = 0.0
    request: MergeRequest = MergeRequest()
    search: SearchState | None = None
    heal: HealState | None = None
    asked_at: float = 0.0

    @property
    def is_live(self) -> bool:
        return self.state in ("waiting", "running")

    @property
    def percent(self) -> int:
        """How much of it is done, from 0 to 100: of a merge by bytes, of a search by the time that it may take."""
        if self.search is not None:
            if self.seconds_left is None or not self.elapsed:
                return 0
            # The rest is for the choice and the report.
            return min(round(100 * self.elapsed / (1.15 * (self.elapsed + self.seconds_left))), 99)
        if self.progress is None or not self.progress.bytes_total:
            return 0
        return round(100 * min(self.progress.bytes_done / self.progress.bytes_total, 1.0))


@dataclass
class _Job:
    id: str
    visitor: str
    title: str
    models: tuple[str, ...]
    work: MergeWork | SearchWork | HealWork | None
    request: MergeRequest
    asked: float
    context: Context
    state: State = "waiting"
    cancel: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    ended: float = 0.0
    progress: Progress | None = None
    measured: deque[tuple[float, int]] = field(default_factory=deque)
    log: list[tuple[float, str]] = field(default_factory=list)
    problems: tuple[Problem, ...] = ()
    result: Result | None = None
    search: SearchState | None = None
    heal: HealState | None = None
    asked_at: float = field(default_factory=time.time)


class JobBoard:
    """All jobs of the server, and the one thread that runs them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._served: dict[str, int] = {}  # visitor -> the turn in which one of their jobs ran last
        self._turn = 0
        self._thread: threading.Thread | None = None

    def submit(
        self,
        visitor: str,
        title: str,
        models: tuple[str, ...],
        work: MergeWork | SearchWork | HealWork,
        request: MergeRequest = MergeRequest(),
        state: SearchState | HealState | None = None,
        job_id: str = "",
    ) -> str:
        """Queue work. What runs on a rented machine begins at once.

        Args:
            visitor: whose turn it takes; never shown
            title: the visitor's name for it
            models: its inputs, for a later comparison with the result
            work: called with a progress callback and an event that cancels it
            request: what the work does, to show it and to repeat it
            state: that a search or a training begins with
            job_id: of a job that an earlier server had; one that is known is left as it is

        Returns:
            The job's id.

        Raises:
            MergeError: the line, or this visitor's share of it, is full.
        """
        with self._lock:
            if job_id in self._jobs:
                return job_id
            self._check_room(visitor, is_rented=request.rented is not None)
            asked, context = self._clock(), copy_context()
            name = job_id or secrets.token_urlsafe(24)
            job = _Job(name, visitor, title, models, work, request, asked, context)
            if isinstance(state, HealState):
                job.heal = state
            else:
                job.search = state
            job.log.append((0.0, t("jobs.log.queued")))
            self._jobs[job.id] = job
            self._forget_old()
            if request.rented:
                self._begin(job)
                threading.Thread(target=self._in_context, args=(job,), name="rented", daemon=True).start()
                return job.id
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_all, name="merges", daemon=True)
                self._thread.start()
            self._lock.notify_all()
            return job.id

    def check_room_for_rented(self, visitor: str, to: str = "") -> None:
        """Refuse one more rented machine before it costs anything.

        Args:
            to: where its result goes; empty where it has none

        Raises:
            MergeError: this visitor, or all together, have too many, or this visitor has one with this destination.
        """
        with self._lock:
            self._check_room(visitor, is_rented=True)
            for job in self._jobs.values():
                rented = job.request.rented
                if to and rented and (job.state, job.visitor, job.request.to) == ("running", visitor, to):
                    raise MergeError(Problem("rented-already", {"to": to, "url": rented.url}))

    def status(self, job_id: str) -> JobStatus | None:
        """The current state of a job; None if there is no such job, or no longer."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            now = job.ended or self._clock()
            rate, left = self._rate(job)
            line = self._line() if job.state == "waiting" else []
            before = line[: line.index(job)] if line else []
            return JobStatus(
                id=job.id,
                title=job.title,
                models=job.models,
                state=job.state,
                position=len(before) + 1 if line else 0,
                progress=job.progress,
                rate=rate,
                seconds_left=left,
                elapsed=now - job.began if job.began else 0.0,
                log=tuple(job.log),
                problems=job.problems,
                result=job.result,
                stopping=job.cancel.is_set() and job.state == "running",
                seconds_to_wait=self._wait(before) if line else 0.0,
                request=job.request,
                search=job.search,
                heal=job.heal,
                asked_at=job.asked_at,
            )

    def cancel(self, job_id: str) -> bool:
        """Stop a job: at once if it waits, within a tensor if it runs. False if it had ended already."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.state not in ("waiting", "running"):
                return False
            job.cancel.set()
            if job.state == "waiting":
                self._end(job, "cancelled", t("jobs.log.cancelled"))
            return True

    # -- the line (every method below except the last three is called with the lock held) -------------

    def _check_room(self, visitor: str, *, is_rented: bool) -> None:
        live = [
            job
            for job in self._jobs.values()
            if job.state in ("waiting", "running") and (job.request.rented is not None) == is_rented
        ]
        most_own, most = (
            (MAX_RENTED_OF_A_VISITOR, MAX_RENTED) if is_rented else (MAX_JOBS_OF_A_VISITOR, MAX_JOBS)
        )
        own = sum(job.visitor == visitor for job in live)
        if own >= most_own:
            raise MergeError(Problem("too-many-jobs", {"count": own}))
        if len(live) >= most:
            raise MergeError(Problem("busy", {"count": len(live)}))

    def _line(self) -> list[_Job]:
        """Waiting jobs in the order in which they will run: visitors take turns, each in their own order."""
        served, turn = dict(self._served), self._turn
        waiting = [job for job in self._jobs.values() if job.state == "waiting"]
        line = []
        while waiting:
            job = min(waiting, key=lambda job: served.get(job.visitor, 0))  # ties: who asked first
            turn += 1
            served[job.visitor] = turn
            waiting.remove(job)
            line.append(job)
        return line

    def _wait(self, before: list[_Job]) -> float:
        """Seconds until the job behind these begins."""
        seconds = sum(job.request.seconds for job in before)
        for job in self._jobs.values():
            if job.state == "running" and not job.request.rented:
                _, left = self._rate(job)
                seconds += (
                    max(job.request.seconds - (self._clock() - job.began), 0.0) if left is None else left
                )
        return seconds

    def _forget_old(self) -> None:
        finished = [job for job in self._jobs.values() if job.ended]
        for job in sorted(finished, key=lambda job: job.ended)[: max(0, len(finished) - MAX_FINISHED)]:
            del self._jobs[job.id]
        present = {job.visitor for job in self._jobs.values()}
        self._served = {visitor: turn for visitor, turn in self._served.items() if visitor in present}

    def _rate(self, job: _Job) -> tuple[float, float | None]:
        """Bytes per second over RATE_WINDOW, and the seconds left at that rate; or those left of other work."""
        if job.state == "running" and (own := job.search or job.heal):
            return 0.0, own.seconds_left
        if job.state != "running" or job.progress is None or len(job.measured) < 2:
            return 0.0, None
        (start, first), (end, last) = job.measured[0], job.measured[-1]
        rate = (last - first) / (end - start) if end > start else 0.0
        left = (job.progress.bytes_total - job.progress.bytes_done) / rate if rate > 0 else None
        return rate, left

    def _end(self, job: _Job, state: State, line: str) -> None:
        job.state, job.ended, job.work = state, self._clock(), None
        job.log.append((job.ended - job.asked, line))
        job.context = Context()  # the old one holds the visitor's request

    def _run_all(self) -> None:
        while True:
            with self._lock:
                while not (line := self._line()):
                    self._lock.wait()
                job = line[0]
                self._turn += 1
                self._served[job.visitor] = self._turn
                self._begin(job)
            self._in_context(job)

    def _begin(self, job: _Job) -> None:
        job.state, job.began = "running", self._clock()
        job.log.append((job.began - job.asked, job.context.run(t, "jobs.log.started")))

    def _in_context(self, job: _Job) -> None:
        """Run a job in the context of the request that submitted it, which holds the visitor's language."""
        job.context.copy().run(self._run, job)

    def _run(self, job: _Job) -> None:
        def watch(progress: Progress | SearchState | HealState | str) -> None:
            with self._lock:
                if isinstance(progress, str):
                    job.log.append((self._clock() - job.asked, progress))
                    return
                if isinstance(progress, HealState):
                    if job.heal is not None and job.heal.phase != progress.phase:
                        job.log.append((self._clock() - job.asked, t(f"jobs.phase.{progress.phase}")))
                    job.heal = progress
                    return
                if isinstance(progress, SearchState):
                    if job.search is not None and job.search.phase != progress.phase:
                        job.log.append((self._clock() - job.asked, t(f"jobs.phase.{progress.phase}")))
                    job.search = progress
                    return
                if job.progress is None or job.progress.phase != progress.phase:
                    job.measured.clear()
                    job.log.append((self._clock() - job.asked, t(f"jobs.phase.{progress.phase}")))
                job.progress = progress
                job.measured.append((self._clock(), progress.bytes_done))
                while len(job.measured) > 2 and job.measured[0][0] < job.measured[-1][0] - RATE_WINDOW:
                    job.measured.popleft()

        assert job.work is not None
        try:
            result = job.work(watch, job.cancel)
        except Cancelled:
            with self._lock:
                self._end(job, "cancelled", t("jobs.log.cancelled"))
        except ProblemError as error:
            with self._lock:
                job.problems = tuple(map(redact_problem, error.problems))
                self._end(job, "failed", t("jobs.log.failed"))
        except Exception as error:
            with self._lock:
                job.problems = (Problem("job-defect", {"error": log_unexpected(error)}),)
                self._end(job, "failed", t("jobs.log.failed"))
        else:
            with self._lock:
                if isinstance(result, HealState):
                    job.heal, job.result = result, result.result
                    self._end(job, "done", t("jobs.log.healed" if result.healed else "jobs.log.not_healed"))
                elif isinstance(result, SearchState):
                    job.search = result
                    self._end(job, "done", t("jobs.log.searched"))
                else:
                    job.result = result
                    self._end(job, "done", t("jobs.log.done", location=result.location))

"""Who scores recipes: this process, or several, each with a live model of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, Self

from checkpoints.problems import Cancelled, PlanError, Problem, ProblemError, RecipeError
from evaluation import EvaluationError, LanguageModel
from merging import MergeError, Recipe
from searching.figures import Figures, is_finite, score
from searching.goals import Part
from searching.objective import Objective
from searching.optimiser import SearchError
from searching.records import Scored

# A trial whose worker is lost as often as this has failed.
MOST_LOSSES = 2


class LiveModel(Protocol):
    """A merge that can be scored, and changed, see `searching.live_merge`."""

    @property
    def model(self) -> LanguageModel: ...

    def update(self, recipe: Recipe) -> object:
        """Make the model that of another recipe of the same models."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Job:
    """A recipe to score on one part.

    Args:
        who: what the recipe is, see `Scored`
        part: of the data
        recipe: the recipe
        best: figures of the best so far, where the work may end early
    """

    who: str
    part: Part
    recipe: Recipe
    best: Figures | None = None


@dataclass(frozen=True)
class Scorer:
    """Opens a live model, and scores recipes with it. Goes to worker processes.

    Args:
        open: opens the model
        objective: what it is scored by
    """

    open: Callable[[], LiveModel]
    objective: Objective

    def score(self, live: LiveModel, job: Job, cancel: threading.Event | None = None) -> Scored:
        """Score a recipe.

        Raises:
            MergeError: the parents can no longer be read, or the memory does not suffice; all else is a failed trial.
            Cancelled: `cancel` was set.
        """
        began = time.perf_counter()
        figures: Figures = {}
        making = 0.0
        try:
            self.objective.read_to_teachers(live, job.part, cancel)
            began = time.perf_counter()
            live.update(job.recipe)
            making = time.perf_counter() - began
            figures, whole = self.objective.score(live.model, job.part, job.best, cancel)
            known = job.part != "search" or math.isfinite(score(figures, self.objective.goals))
            if not (is_finite(figures) and known):
                raise EvaluationError(Problem("trial-not-finite"))
        except (EvaluationError, RecipeError, PlanError) as error:
            seconds = time.perf_counter() - began
            return Scored(job.who, job.part, "failed", {}, seconds, making, problem=error.problems[0])
        except MergeError as error:
            if [problem.code for problem in error.problems] != ["other-tensors"]:
                raise
            seconds = time.perf_counter() - began
            return Scored(job.who, job.part, "failed", {}, seconds, making, problem=error.problems[0])
        seconds = time.perf_counter() - began
        return Scored(job.who, job.part, "done" if whole else "stopped", figures, seconds, making)


class Workers(Protocol):
    """Takes jobs and returns what came of them, not always in the same order."""

    @property
    def count(self) -> int:
        """How many jobs run at the same time."""

    @property
    def running(self) -> int:
        """Jobs that were taken and not returned."""

    def take(self, job: Job) -> None:
        """Begin a job; only while fewer run than there are workers."""

    def wait(self) -> Scored:
        """What came of the next job that ends.

        Raises:
            MergeError: the parents can no longer be read.
            Cancelled: the caller asked to stop.
            SearchError: workers are lost again and again.
        """

    def close(self) -> None: ...


class ThisProcess:
    """Scores one job after the other, here."""

    count = 1

    def __init__(self, scorer: Scorer, cancel: threading.Event | None = None):
        self._scorer = scorer
        self._cancel = cancel
        self._live: LiveModel | None = None
        self._job: Job | None = None

    @property
    def running(self) -> int:
        return int(self._job is not None)

    @property
    def live(self) -> LiveModel:
        """The live model, opened when it is first asked for."""
        if self._live is None:
            self._live = self._scorer.open()
        return self._live

    def take(self, job: Job) -> None:
        assert self._job is None
        self._job = job

    def wait(self) -> Scored:
        job, self._job = self._job, None
        assert job is not None
        return self._scorer.score(self.live, job, self._cancel)

    def close(self) -> None:
        if self._live is not None:
            self._live.close()


def lost_too_often(job: Job, losses: int, whole: int, workers: int) -> Scored:
    """A failed trial: the workers that had its job were lost.

    Args:
        losses: of this job
        whole: of all jobs
        workers: how many score at the same time

    Raises:
        SearchError: workers are lost again and again.
    """
    problem = Problem("worker-lost", {"who": job.who, "count": losses})
    if whole > 4 * workers:
        raise SearchError(problem)
    return Scored(job.who, job.part, "failed", {}, problem=problem)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None


@dataclass
class TrialProcesses:
    """Worker processes. A job of one that dies is given to another.

    Args:
        scorer: what each of them runs
        count: how many
        cancel: set it to stop waiting
    """

    scorer: Scorer
    count: int
    cancel: threading.Event | None = None
    _workers: list[_Worker] = field(default_factory=list)
    _again: deque[Job] = field(default_factory=deque)
    _losses: dict[tuple[str, Part], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._workers = [self._start() for _ in range(self.count)]

    def _start(self) -> _Worker:
        context = _context()
        ours, theirs = context.Pipe()
        threads = max((os.cpu_count() or 1) // self.count, 1)
        process = context.Process(target=_serve, args=(theirs, self.scorer, threads), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    @property
    def running(self) -> int:
        return len(self._again) + sum(worker.job is not None for worker in self._workers)

    def take(self, job: Job) -> None:
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job = job
        try:
            worker.pipe.send(job)
        except OSError:
            self._again_without(worker)

    def wait(self) -> Scored:
        while True:
            while self._again and any(worker.job is None for worker in self._workers):
                self.take(self._again.popleft())
            if self.cancel is not None and self.cancel.is_set():
                raise Cancelled
            busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
            for pipe in wait(list(busy), timeout=0.5):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    found = worker.pipe.recv()
                except (EOFError, OSError):
                    failed = self._again_without(worker)
                    if failed is not None:
                        return failed
                    continue
                if isinstance(found, BaseException):
                    raise found
                worker.job = None
                assert isinstance(found, Scored)
                return found

    def _again_without(self, lost: _Worker) -> Scored | None:
        """Start a worker in the place of a lost one; returns a failed trial if its job was lost too often."""
        job = lost.job
        lost.process.terminate()
        lost.process.join()
        lost.pipe.close()
        self._workers[self._workers.index(lost)] = self._start()
        assert job is not None
        losses = self._losses[job.who, job.part] = self._losses.get((job.who, job.part), 0) + 1
        if losses < MOST_LOSSES:
            self._again.append(job)
            return None
        return lost_too_often(job, losses, sum(self._losses.values()), self.count)

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def _context() -> Any:
    """How processes are started: forked, where there are forks, from one that has imported all there is to import."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["searching.plan"])
    return context


def _serve(pipe: Connection, scorer: Scorer, threads: int) -> None:
    """A worker process: score what comes until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator ends this process
    import torch

    torch.set_num_threads(threads)
    live: LiveModel | None = None
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            live = live or scorer.open()
            found: Scored | ProblemError = scorer.score(live, job)
        except ProblemError as error:
            found = error
        try:
            pipe.send(found)
        except OSError:
            return

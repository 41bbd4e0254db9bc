"""What a search will do, cost and be able to show, found out before it starts."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import Token
from checkpoints.cluster import Cluster
from checkpoints.problems import Problem, ProblemError
from evaluation.perplexity import largest_batch
from evaluation.remark import Remark
from merging import METHODS, Plan, make_plan
from searching.data import Data, read_data
from searching.elsewhere import ClusterWorkers, Elsewhere, as_text
from searching.figures import compare
from searching.goals import DESCENTS
from searching.gradient import has_derivative
from searching.live_merge import LiveMerge, free_on, room_to_keep, versions
from searching.memory import needed
from searching.objective import Function, Objective, load_function
from searching.optimiser import SearchError, what_prevents
from searching.records import Scored
from searching.space import Space
from searching.teachers import Teachers
from searching.workers import Job, LiveModel, Scorer, ThisProcess, TrialProcesses, Workers

# How many of the best trials are scored once more, on the choice part.
FINALISTS = 5
# What a step with derivatives costs, in evaluations; measured with a model of 135 M weights.
COST_OF_GRADIENT = 2.5


@dataclass(frozen=True)
class SearchPlan:
    """What a search will do.

    Args:
        space: the recipes
        data: what they are scored on
        merge: the plan of the recipe as it was given
        scorer: opens the live model and scores
        workers: processes that score at the same time
        problems: what prevents the search
        warnings: what the user should know
        memory_bytes: that all workers hold at least
        kept_bytes: that they hold besides: as many of the parents' changes as there is room for, so that these are not
            read again
        free_bytes: that there are
        elsewhere: the processes of a cluster that score; None where those of this machine do
    """

    space: Space
    data: Data
    merge: Plan
    scorer: Scorer
    workers: int = 1
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    memory_bytes: int = 0
    kept_bytes: int = 0
    free_bytes: int = 0
    elsewhere: Elsewhere | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def is_alone(self) -> bool:
        """Whether this process scores everything, so that it can take derivatives."""
        return self.workers == 1 and self.elsewhere is None

    @property
    def parents(self) -> dict[str, str]:
        """The version of each parent and adapter, by its name."""
        return versions(self.merge)

    def open_workers(self, cancel: threading.Event | None = None) -> Workers:
        """What scores."""
        if self.elsewhere:
            where = self.elsewhere
            text = as_text(self.space, self.scorer.objective, self.parents, where.memory, where.kept)
            return ClusterWorkers(where, text, cancel)
        if self.workers == 1:
            return ThisProcess(self.scorer, cancel)
        return TrialProcesses(self.scorer, self.workers, cancel)

    def summary(self) -> dict[str, Any]:
        """For programs, as JSON."""
        settings = self.space.settings
        return {
            "ok": self.ok,
            "problems": [problem.as_dict() for problem in self.problems],
            "warnings": [problem.as_dict() for problem in self.warnings],
            "axes": [
                {
                    "name": axis.name,
                    "range": [axis.low, axis.high] if not axis.choices else None,
                    "choices": list(axis.choices),
                    "start": axis.start,
                }
                for axis in self.space.axes
            ],
            "documents": self.data.counts(),
            "by": settings.by,
            "trials": settings.trials,
            "minutes": settings.minutes,
            "workers": self.workers,
            "memory_bytes": self.memory_bytes,
            "kept_bytes": self.kept_bytes,
            "free_bytes": self.free_bytes,
            "parents": self.parents,
        }


def plan_search(
    space: Space,
    *,
    folder: Path = Path(),
    texts: Mapping[str, Sequence[str]] | None = None,
    score: Function | None = None,
    workers: int | None = None,
    on: Cluster | None = None,
    token: Token = None,
    allow_folders: bool = True,
    device: str = "auto",
    memory: int | None = None,
) -> SearchPlan:
    """Read the data, plan the merge, and find everything that prevents the search. Loads no weights.

    Args:
        space: what to search, from `read_space`
        folder: that names of files are relative to
        texts: documents by the name that goals use, instead of files
        score: stands in for the function of goals of kind `python`
        workers: processes that score at the same time; each holds a model. None: one, or of a cluster as many as its
            machines hold
        on: a cluster whose machines score; they need the same software, and the models under the same names
        token: whose access to the Hub to use
        allow_folders: whether models, texts and functions may be files of this machine
        device: that scores, "cpu", "cuda" or "auto"
        memory: bytes that are free; None: as many as this machine or container has free

    Returns:
        The plan; if it has problems, `plan.ok` is false.
    """
    problems: list[Problem] = []
    data = Data()
    try:
        data = read_data(space.settings, folder=folder, texts=texts, token=token, allow_folders=allow_folders)
        for goal in space.settings.goals:
            if goal.kind == "python" and score is None:
                load_function(goal.source, folder)
    except ProblemError as error:
        problems += error.problems
    start = space.recipe(space.start)
    merge = make_plan(start, token=token, allow_folders=allow_folders, memory=memory)
    problems += merge.problems
    problems += _what_prevents(space, merge, on, workers or 1)
    free = free_on("cpu" if on else device) if memory is None else memory
    taught = {goal.teacher for goal in space.settings.goals if goal.teacher}
    holds = needed(
        merge,
        heads=len(taught),
        tokens=largest_batch(data.texts(), "cpu"),
        derivatives=_by_gradient(space, on is None and workers in (None, 1)),
    )
    elsewhere = None
    if on is not None:
        if score is not None:
            problems.append(Problem("function-on-cluster"))
        try:
            elsewhere = Elsewhere.planned(on, holds, workers, token)
        except ProblemError as error:
            problems += error.problems
    workers = elsewhere.count if elsewhere else workers or 1
    least = holds.least * workers if merge.shards else 0
    if least > free and on is None:
        values = {"workers": workers, "needed": least / 1e9, "free": free / 1e9}
        problems.append(Problem("search-too-large", values))
    recipes = {name: recipe for name, recipe in space.parents().items() if name in taught}
    objective = Objective(space.settings.goals, data, folder, score, space.settings.shares, Teachers(recipes))
    each = free // workers
    opened = partial(
        open_live, start, token=token, allow_folders=allow_folders, device=device, memory=each,
        keep=room_to_keep(each, holds.least),
    )  # fmt: skip
    return SearchPlan(
        space,
        data,
        merge,
        Scorer(opened, objective),
        workers,
        tuple(dict.fromkeys(problems)),
        merge.warnings,
        least,
        (elsewhere.kept if elsewhere else holds.kept(each)) * workers,
        free,
        elsewhere,
    )


def _by_gradient(space: Space, alone: bool) -> bool:
    """Whether points are mostly chosen by derivatives.

    Args:
        alone: whether one process of this machine scores
    """
    return space.settings.by in DESCENTS or (space.settings.by == "auto" and alone and has_gradient(space))


def _what_prevents(space: Space, merge: Plan, on: Cluster | None, workers: int) -> list[Problem]:
    """Why points cannot be chosen in the way that a space asks for."""
    way = space.settings.by
    if way == "auto" and _by_gradient(space, on is None and workers == 1):
        return []  # else by TPE
    if way not in DESCENTS:
        found = what_prevents(space, way)
        return [found] if found else []
    if on is not None:
        return [Problem("gradient-on-cluster")]
    if workers > 1:
        return [Problem("gradient-one-worker", {"workers": workers})]
    if not has_gradient(space):
        return [Problem("no-gradient")]
    merged = next((tensor for tensor in merge.tensors if len(tensor.inputs) > 1), None)
    if merged is None:
        return []
    method = METHODS[merge.method]
    arguments = {one.argument: merged.parameters.get(one.name) for one in method.parameters}
    names = dict.fromkeys(axis.parameter for axis in space.axes)
    searched = [one for one in method.parameters if one.name in names]
    return [
        Problem("no-derivative", {"method": method.name, "parameter": one.name})
        for one in searched
        if not has_derivative(method, one, arguments)
    ]


def open_live(recipe: Any, **settings: Any) -> LiveModel:
    """Open a live merge, in the process that will use it."""
    return LiveMerge(recipe, **settings)


# Searched coefficients seldom gain more over the plain average, in bits per byte.
COARSE = 0.05


class Measured(NamedTuple):
    """What two trials tell of a search.

    Args:
        seconds: of one trial, scoring and making
        making: seconds of these that make the model
        judging: seconds of the last trial, of the choice and of the report
        total: seconds of the whole search, at most
        least: least difference of the score that the report part can show; None where it shows none
    """

    seconds: float
    making: float
    judging: float
    total: float
    least: float | None

    @property
    def remarks(self) -> list[Remark]:
        """The same, and what follows from it."""
        said = [
            Remark("search-trial", {"seconds": self.seconds, "making": self.making}),
            Remark("search-time", {"minutes": self.total / 60}),
        ]
        if self.least is None:
            return [*said, Remark("search-shows-nothing")]
        said.append(Remark("search-shows", {"value": self.least}))
        if self.least > COARSE:
            said.append(Remark("search-coarse", {"value": COARSE}))
        return said


def measure(plan: SearchPlan, live: LiveModel | None = None) -> Measured:
    """Score the plain average and one parent on the search part, and estimate what the search will cost and show.

    Raises:
        SearchError: a model cannot be scored.
        MergeError: it cannot be made.
    """
    opened = live or plan.scorer.open()
    try:
        parent = list(plan.space.parents().items())[-1]
        two = (("average", plan.space.average()), parent)
        scored = [plan.scorer.score(opened, Job(who, "search", one)) for who, one in two]
    finally:
        if live is None:
            opened.close()
    for one in scored:
        if one.problem is not None:
            raise SearchError(one.problem)
    return measured(plan, scored)


def measured(plan: SearchPlan, scored: Sequence[Scored]) -> Measured:
    """The same from two scores that are there.

    Args:
        scored: of two recipes on the search part
    """
    seconds = max(one.seconds for one in scored)
    settings = plan.space.settings
    by_gradient = _by_gradient(plan.space, plan.is_alone)
    counts = plan.data.counts()
    parts = {part: sum(count[part] for count in counts.values()) for part in ("search", "choice", "report")}
    # The recipe as it was given may be the plain average. Teachers are read to, and soups are scored, as baselines are.
    averages = 1 if plan.space.recipe(plan.space.start) == plan.space.average() else 2
    others = (
        len(plan.space.parents()) + averages + len({goal.teacher for goal in settings.goals if goal.teacher})
    )
    starts = len(settings.starts) and len(plan.space.weighted_models())
    # A descent scores each step on the choice part, and takes its derivatives.
    trial = COST_OF_GRADIENT if by_gradient else 1.0
    trials = settings.trials * trial + others + starts
    reported = (others + 1) * parts["report"]
    documents = trials * parts["search"] + reported
    documents += (settings.trials if by_gradient else FINALISTS) * parts["choice"]
    last = trial * parts["search"] + reported + (1 if by_gradient else FINALISTS) * parts["choice"]
    each = seconds / max(parts["search"], 1) / plan.workers
    total = documents * each
    if settings.minutes is not None:
        total = min(total, settings.minutes * 60)
    making = max(one.making for one in scored)
    return Measured(seconds, making, last * each, total, least_difference(plan, scored))


def has_gradient(space: Space) -> bool:
    """Whether the score is a likelihood, and every axis a number."""
    counted = [goal for goal in space.settings.goals if not goal.is_guard]
    numbers = all(not axis.choices and not axis.integer for axis in space.axes)
    return numbers and all(goal.kind in ("text", "dataset") for goal in counted)


def least_difference(plan: SearchPlan, scored: Sequence[Scored]) -> float | None:
    """The least true difference that the report part mostly shows, if it is like that of two recipes on the search
    part."""
    goals = [goal for goal in plan.space.settings.goals if not goal.is_guard]
    counts = plan.data.counts()
    documents = sum(counts[goal.name]["report"] for goal in goals if goal.name in counts)
    found = compare(scored[0].figures, scored[1].figures, goals, documents=documents or None)
    return found.detectable

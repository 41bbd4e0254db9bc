"""Chooses points of a space: Optuna's samplers by ask and tell, or a grid.

What is asked follows from the seed and from the order of all asks and tells before, so a search that was interrupted is
continued by repeating these.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from checkpoints.problems import Problem, ProblemError
from merging.methods.parameters import Scalar
from searching.goals import DESCENTS, Way
from searching.space import Axis, Point, Space


class SearchError(ProblemError):
    """A search that cannot be started or continued."""


class Optimiser(Protocol):
    """Chooses points one after the other."""

    def ask(self, point: Point | None = None) -> Point | None:
        """The next point; the one that is given, if one is; None when there are no more."""

    def tell(self, number: int, values: Sequence[float]) -> None:
        """Report the scores of the point that was asked for under a number, from 0 on; none if it failed."""


def what_prevents(space: Space, way: Way) -> Problem | None:
    """Why points of a space cannot be chosen in a way, if so; not whether there are derivatives."""
    numbers = [axis for axis in space.axes if not axis.choices]
    if way == "cmaes" and len(numbers) < 2:
        return Problem("cmaes-few-numbers", {"count": len(numbers)})
    if way not in ("grid", *DESCENTS) and find_spec("optuna") is None:
        return Problem("no-optuna")
    return None


def optimiser(space: Space, way: Way, trials: int) -> Optimiser:
    """The optimiser of a way to search.

    Args:
        space: whose points it chooses
        way: "auto" is TPE, and so is the way of the steps after a gradient
        trials: how many there will be, for the grid

    Raises:
        SearchError: Optuna is not installed, or the way does not suit the space.
    """
    if problem := what_prevents(space, way):
        raise SearchError(problem)
    return Grid(space, trials) if way == "grid" else OptunaOptimiser(space, way)


class Grid:
    """All combinations of evenly spaced values, as many on each axis as the trials allow."""

    def __init__(self, space: Space, trials: int):
        numbers = sum(not axis.choices for axis in space.axes)
        others = math.prod(len(axis.choices) for axis in space.axes if axis.choices)
        count = max(int((trials / others) ** (1 / max(numbers, 1)) + 1e-9), 2)
        self._names = [axis.name for axis in space.axes]
        self._points = itertools.product(*(_values(axis, count) for axis in space.axes))

    def ask(self, point: Point | None = None) -> Point | None:
        if point is not None:
            return point
        values = next(self._points, None)
        return None if values is None else dict(zip(self._names, values, strict=True))

    def tell(self, number: int, values: Sequence[float]) -> None:
        """Nothing follows from it."""


def _values(axis: Axis, count: int) -> Iterator[Scalar]:
    if axis.choices:
        return iter(axis.choices)
    assert axis.low is not None and axis.high is not None
    width = axis.high - axis.low
    return iter(dict.fromkeys(axis.rounded(axis.low + width * step / (count - 1)) for step in range(count)))


class OptunaOptimiser:
    """One of Optuna's samplers, with a study in memory.

    Args:
        space: whose points it chooses
        way: the sampler
    """

    def __init__(self, space: Space, way: Way):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        count = sum(not goal.is_guard for goal in space.settings.goals) if way == "nsga2" else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = _sampler(way, space.settings.seed)
        self._failed = optuna.trial.TrialState.FAIL
        self._trials: list[Any] = []
        self._study = self._opened(count, sampler)

    def _opened(self, objectives: int, sampler: Any) -> Any:
        """The study."""
        import optuna

        return optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)

    def ask(self, point: Point | None = None) -> Point | None:
        if point is not None:
            self._study.enqueue_trial(dict(point))
        trial = self._study.ask()
        self._trials.append(trial)
        return {axis.name: _suggested(trial, axis) for axis in self._space.axes}

    def tell(self, number: int, values: Sequence[float]) -> None:
        if not values:
            self._study.tell(self._trials[number], state=self._failed)
        else:
            self._study.tell(self._trials[number], list(values))


def _sampler(way: Way, seed: int) -> Any:
    from optuna import samplers

    match way:
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "qmc":
            return samplers.QMCSampler(
                seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
            )
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=16)
    return samplers.TPESampler(seed=seed)


def _suggested(trial: Any, axis: Axis) -> Scalar:
    if axis.choices:
        found: Scalar = trial.suggest_categorical(axis.name, axis.choices)
    elif axis.integer:
        found = trial.suggest_int(axis.name, int(axis.low or 0), int(axis.high or 0))
    else:
        found = trial.suggest_float(axis.name, axis.low, axis.high)
    return found

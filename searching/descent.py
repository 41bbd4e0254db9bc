"""A search by exact gradients: each step of the descent is a trial, with its gradient in the records."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from checkpoints.problems import Problem
from evaluation import EvaluationError
from merging import Recipe
from searching.figures import Figures, excess, score
from searching.goals import Goal
from searching.gradient import Derivatives, Loss
from searching.gradient import TextObjective as Text
from searching.live_merge import LiveMerge
from searching.objective import as_read
from searching.plan import SearchPlan
from searching.records import Asked, Records, Scored
from searching.space import Point, Space
from searching.workers import LiveModel

# What each unit above a limit adds to the score.
PENALTY = 10.0


@dataclass(frozen=True)
class Numbers:
    """The axes of a space as a list of numbers, for `Derivatives`.

    Args:
        space: whose axes are all numbers
        begin: the point where a descent begins
    """

    space: Space
    begin: Point

    @property
    def start(self) -> Sequence[float]:
        return [float(self.begin[axis.name]) for axis in self.space.axes]

    @property
    def low(self) -> Sequence[float]:
        return [axis.low or 0.0 for axis in self.space.axes]

    @property
    def high(self) -> Sequence[float]:
        return [axis.high or 0.0 for axis in self.space.axes]

    def point(self, values: Sequence[float]) -> dict[str, float]:
        return {axis.name: float(value) for axis, value in zip(self.space.axes, values, strict=True)}

    def recipe(self, values: Sequence[float]) -> Recipe:
        return self.space.recipe(self.point(values))


@dataclass
class Descent:
    """Takes the score and its derivatives, or reads them from the records.

    Args:
        plan: of the search
        records: trials that ended are not scored again
        live: that is scored
        references: figures on the search part that relative limits move with
        begin: the point where it begins

    Raises:
        MergeError: there is no derivative by one of the numbers.
    """

    plan: SearchPlan
    records: Records
    live: LiveModel
    references: Figures
    begin: Point
    numbers: Numbers = field(init=False)
    derivatives: Derivatives = field(init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.live, LiveMerge)
        self.numbers = Numbers(self.plan.space, self.begin)
        self.plan.scorer.objective.read_to_teachers(self.live, "search")
        self.live.update(self.numbers.recipe(self.numbers.start))
        self.derivatives = Derivatives(self.live, self.numbers)

    def trial(self, number: int, values: Sequence[float]) -> tuple[Asked, Scored]:
        """Score a point, with its derivatives.

        Raises:
            MergeError: the parents can no longer be read.
        """
        asked = Asked(number, number, self.numbers.point(values))
        who = f"trial {number}"
        began = time.perf_counter()
        try:
            figures, gradient = self._at(values)
        except EvaluationError as error:
            seconds = time.perf_counter() - began
            return asked, Scored(who, "search", "failed", {}, seconds, problem=error.problems[0])
        seconds = time.perf_counter() - began
        return asked, Scored(who, "search", "done", figures, seconds, gradient=tuple(gradient.tolist()))

    def loss(self, scored: Scored) -> Loss:
        """The score of a trial and its derivatives, with what broken guards add."""
        goals = self.plan.space.settings.goals
        broken = sum(excess(scored.figures, self.references, self._guards).values())
        return Loss(score(scored.figures, goals) + PENALTY * broken, (), np.array(scored.gradient))

    @property
    def _guards(self) -> list[Goal]:
        return [goal for goal in self.plan.space.settings.goals if goal.is_guard]

    def _at(self, values: Sequence[float]) -> tuple[Figures, NDArray[np.float64]]:
        """Figures, one for each goal, and the gradient."""
        goals = [goal for goal in self.plan.space.settings.goals if not goal.is_guard]
        loss = self.derivatives.at(values, [self._text(goal) for goal in goals])
        figures = {goal.name: ((value, 1.0),) for goal, value in zip(goals, loss.by_objective, strict=True)}
        gradient = loss.gradient
        for goal in self._guards:
            documents = self.plan.data.of(goal, "search")
            rows = self.plan.scorer.objective.rows(self.live.model, goal, documents, "search", None)
            figures[goal.name] = tuple(rows)  # type: ignore[assignment]
        broken = excess(figures, self.references, self._guards)
        for goal in self._guards:
            if broken.get(goal.name) and goal.kind in ("text", "dataset"):
                gradient = gradient + PENALTY * self.derivatives.at(values, [self._text(goal)]).gradient
        if not (math.isfinite(loss.value) and np.isfinite(gradient).all()):
            raise EvaluationError(Problem("trial-not-finite"))
        return figures, gradient

    def _text(self, goal: Goal) -> Text:
        documents = self.plan.data.of(goal, "search")
        texts = tuple(as_read(self.live.model, document.text) for document in documents)
        teacher = self.plan.scorer.objective.teachers[goal.teacher] if goal.teacher else None
        return Text(texts, goal.weight or 1.0, teacher)

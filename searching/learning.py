"""Learns the numbers of a recipe by exact derivatives: steps downhill, inside bounds, while they help.

The score on the search texts leads; the score on the choice texts says where to stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.problems import Cancelled
from merging import Recipe
from searching.gradient import Coefficients, Derivatives, Loss, TextObjective, score
from searching.live_merge import LiveMerge

Optimizer = Literal["adam", "lbfgs"]
Stopped = Literal["steps", "choice", "seconds", "cancelled"]
# Length of a step of Adam, as a share of the one before. Few steps are affordable: the first have to lead far.
SHORTER = 0.85


@dataclass(frozen=True)
class Step:
    """One evaluation of the score and its derivatives.

    Attributes:
        number: from 0, the start.
        values: N numbers of the space.
        search: bits per byte on the search texts.
        choice: on the choice texts; None without any.
        seconds: since the beginning.
    """

    number: int
    values: tuple[float, ...]
    search: float
    choice: float | None
    seconds: float

    @property
    def judged(self) -> float:
        """What the best step has least of."""
        return self.search if self.choice is None else self.choice


@dataclass(frozen=True)
class Learnt:
    """What was learnt.

    Attributes:
        values: N numbers of the best step.
        recipe: of these.
        steps: all, in order.
        stopped: what ended it.
    """

    values: tuple[float, ...]
    recipe: Recipe
    steps: tuple[Step, ...]
    stopped: Stopped


@dataclass(frozen=True)
class Pace:
    """How far and how fast a descent goes.

    Attributes:
        optimizer: Adam, or L-BFGS-B of scipy.
        steps: the most evaluations.
        rate: of the first step, as a share of each number's range; Adam's next ones are shorter and shorter.
        pull: towards the start: what the mean square of the numbers' distances, as shares of their ranges, costs in
            bits per byte.
        patience: evaluations without a better choice score after which it ends.
        seconds: after which no evaluation begins; None for no limit.
    """

    optimizer: Optimizer = "adam"
    steps: int = 12
    rate: float = 0.2
    pull: float = 0.001
    patience: int = 3
    seconds: float | None = None


class _StopError(Exception):
    """Ends an optimizer from within."""

    def __init__(self, why: Stopped):
        self.why = why


def learn(
    live: LiveMerge,
    space: Coefficients,
    objectives: Sequence[TextObjective],
    choice: Sequence[TextObjective] = (),
    pace: Pace = Pace(),
    *,
    on_step: Callable[[Step], None] | None = None,
) -> Learnt:
    """Learn the numbers of a space from its start; the live merge ends with the best ones.

    Args:
        live: a merge whose recipe is one of the space.
        objectives: the search texts.
        choice: texts for the decision when to stop, of which the search sees none.
        pace: how far and how fast it goes.
        on_step: called after each step.

    Raises:
        MergeError: there is no derivative by a number of the space.
        EvaluationError: the model cannot be scored.
    """
    derivatives = Derivatives(live, space)
    taken, stopped = descend(
        space,
        lambda values: derivatives.at(values, objectives),
        lambda: score(live, choice) if choice else None,
        pace,
        on_step=on_step,
    )
    best = _best(taken)
    recipe = space.recipe(best.values)
    if stopped != "cancelled":
        live.update(recipe)
    return Learnt(best.values, recipe, tuple(taken), stopped)


def descend(
    space: Coefficients,
    at: Callable[[Sequence[float]], Loss],
    judged: Callable[[], float | None],
    pace: Pace,
    *,
    on_step: Callable[[Step], None] | None = None,
) -> tuple[list[Step], Stopped]:
    """Go downhill from the start of a space. What follows from a step depends on the losses so far alone.

    Args:
        space: the numbers.
        at: the score and its derivatives at N numbers.
        judged: the score on the choice texts at the same numbers; None without any.
        pace, on_step: see `learn`.

    Returns:
        The steps, and what ended them.
    """
    began = time.monotonic()
    low, high, start = (np.asarray(v, np.float64) for v in (space.low, space.high, space.start))
    width = np.maximum(high - low, 1e-12)
    taken: list[Step] = []

    def evaluate(place: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The score with the pull, and its derivatives, at shares of the ranges."""
        if len(taken) >= pace.steps:
            raise _StopError("steps")
        if taken and pace.seconds is not None and time.monotonic() - began > pace.seconds:
            raise _StopError("seconds")
        values = tuple((low + width * np.clip(place, 0, 1)).tolist())
        loss = at(values)
        taken.append(Step(len(taken), values, loss.value, judged(), time.monotonic() - began))
        if on_step:
            on_step(taken[-1])
        if len(taken) - 1 - _best(taken).number >= pace.patience:
            raise _StopError("choice")
        away = place - (start - low) / width
        slope = loss.gradient * width + 2 * pace.pull * away / len(away)
        return loss.value + pace.pull * float(np.mean(away**2)), slope

    stopped: Stopped = "steps"
    try:
        begin = (start - low) / width
        if pace.optimizer == "adam":
            _adam(evaluate, begin, pace.rate)
        else:
            _lbfgs(evaluate, begin, pace.rate, pace.steps)
    except _StopError as stop:
        stopped = stop.why
    except Cancelled:
        if not taken:
            raise
        stopped = "cancelled"
    return taken, stopped


_Evaluate = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]


def _best(steps: Sequence[Step]) -> Step:
    return min(steps, key=lambda step: step.judged)


def _adam(evaluate: _Evaluate, begin: NDArray[np.float64], rate: float) -> None:
    """Steps until one of them raises."""
    at = torch.from_numpy(begin.copy())
    adam = torch.optim.Adam([at], lr=rate, betas=(0.8, 0.95))  # few steps: short memories
    shorter = torch.optim.lr_scheduler.ExponentialLR(adam, SHORTER)
    while True:
        _, gradient = evaluate(at.numpy())
        at.grad = torch.from_numpy(gradient)
        adam.step()
        shorter.step()
        at.clamp_(0, 1)


def _lbfgs(evaluate: _Evaluate, begin: NDArray[np.float64], first: float, steps: int) -> None:
    """Steps until one of them raises, or none is better; of the first one the longest part is `first`."""
    from scipy.optimize import minimize

    at_begin = evaluate(begin)
    # The first step is as long as the gradient, which knows nothing of the ranges yet.
    scale = first / (float(np.abs(at_begin[1]).max()) or 1.0)

    def scaled(place: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = at_begin if np.array_equal(place, begin) else evaluate(place)
        return scale * value, scale * slope

    bounds = [(0.0, 1.0)] * len(begin)
    minimize(scaled, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxfun": steps})

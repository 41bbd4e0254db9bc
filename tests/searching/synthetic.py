"""Searches without models: a live model that only knows its recipe, and scores that follow from its numbers."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from checkpoints.problems import CheckpointError, Problem
from merging import Plan, Recipe
from searching import SearchPlan, Space, read_space
from searching.data import Data
from searching.goals import Shares
from searching.objective import Objective
from searching.split import Document, digest
from searching.workers import Scorer

SPACE = """
merge_method: task_arithmetic
base_model: org/base
models:
  - {{model: org/math, parameters: {{weight: {{search: [0, 1.2], start: 0.5}}}}}}
  - {{model: org/korean, parameters: {{weight: {{search: [0, 1.2], start: 0.2}}}}}}
search:
  objective: [{{python: synthetic.py:score, text: text.txt}}{more}]
  by: {by}
  budget: {{trials: {trials}}}
  seed: {seed}
"""


@dataclass
class FakeModel:
    """Stands in for a live merge: it remembers the recipe."""

    recipe: Recipe | None = None

    @property
    def model(self) -> Any:
        return self

    def update(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def close(self) -> None:
        pass


def weights(recipe: Recipe) -> tuple[float, float]:
    """The two weights of a recipe; a parent has 1 for itself."""
    found = yaml.safe_load(recipe.text)
    if found["merge_method"] == "passthrough":
        name = found["models"][0]["model"]
        return float(name == "org/math"), float(name == "org/korean")
    first, second = (model["parameters"]["weight"] for model in found["models"])
    return first, second


@dataclass(frozen=True)
class Score:
    """A score for each document, higher is better.

    Args:
        gain: how much better the optimum at (0.9, 0.8) is than (0.5, 0.5)
        noise: standard deviation of what belongs to a recipe and a document together
        seed: of the noise
        log: a file that is told of each document that was scored
        trap: called with the recipe's weights before each score
    """

    gain: float = 1.0
    noise: float = 0.1
    seed: int = 0
    log: Path | None = None
    trap: Callable[[tuple[float, float]], None] | None = None

    def __call__(self, model: FakeModel, documents: Sequence[str]) -> list[float]:
        assert model.recipe
        at = weights(model.recipe)
        if self.trap:
            self.trap(at)
        if self.log:
            with self.log.open("a") as file:
                file.write("".join(f"{at} {text}\n" for text in documents))
        # (0.5, 0.5) is 0.25 from the optimum.
        mean = -self.gain / 0.25 * ((at[0] - 0.9) ** 2 + (at[1] - 0.8) ** 2)
        found = []
        for text in documents:
            own = np.random.default_rng(zlib.crc32(f"{self.seed} {text}".encode())).normal()
            drawn = np.random.default_rng(zlib.crc32(f"{self.seed} {at} {text}".encode())).normal()
            found.append(float(mean + own + self.noise * drawn))
        return found


def documents(search: int = 20, choice: int = 10, report: int = 30) -> Data:
    """Documents of the one goal, in parts of these sizes."""
    found = []
    for part, count in (("search", search), ("choice", choice), ("report", report)):
        for number in range(count):
            text = f"{part} {number}"
            found.append(Document(text, part, digest(text)))  # type: ignore[arg-type]
    return Data({"synthetic.py:score": tuple(found)})


def space(by: str = "tpe", trials: int = 20, seed: int = 0, more: str = "") -> Space:
    return read_space(SPACE.format(by=by, trials=trials, seed=seed, more=more))


def plan(
    score: Score,
    space: Space,
    data: Data | None = None,
    *,
    workers: int = 1,
    open: Callable[[], FakeModel] = FakeModel,
) -> SearchPlan:
    """A search whose recipes have no models."""
    data = data or documents()
    objective = Objective(space.settings.goals, data, function=score, shares=Shares())
    return SearchPlan(space, data, Plan("", "task_arithmetic"), Scorer(open, objective), workers)


# -- traps, which go to worker processes ----------------------------------------------------------------


def fail_at(place: tuple[float, float], at: tuple[float, float]) -> None:
    if at == place:
        raise ValueError("a score that raises")


def die_once(marker: Path, at: tuple[float, float]) -> None:
    """End the process without a word, the first time that a trial other than the baselines is scored."""
    if at[0] not in (0.0, 0.2, 0.5, 1.0) and not marker.exists():
        marker.touch()
        os._exit(9)


def die_at(place: float, at: tuple[float, float]) -> None:
    """End the process whenever the first weight is near a place."""
    if abs(at[0] - place) < 0.1 and at[0] not in (0.0, 0.2, 0.5, 1.0):
        os._exit(9)


def lose_access(marker: Path, at: tuple[float, float]) -> None:
    if marker.exists():
        raise CheckpointError(Problem("access-lost", {"model": "org/math", "status": 401}))


traps = partial

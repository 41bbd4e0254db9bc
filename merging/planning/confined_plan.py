"""A plan that is made in a process of its own: what a server needs whose visitors name strangers' models.

Opening a model interprets files that anyone may have written: configs, headers, pickles, tokenizers, patterns. One that
takes too much time or memory ends that process, and the plan says so. The plan comes back as data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints.confined import HUB_VARIABLES, Confined, ConfinedError, LimitError
from checkpoints.problems import MergeError, Problem
from merging.plan import Plan

# Seconds of processor time, seconds of waiting (for the Hub too), and bytes of memory, for one plan.
SECONDS, WAIT, MEMORY = 60, 90, 4 << 30
# Plans that are made at the same time.
WORKERS = 3


@dataclass(frozen=True)
class PlanRequest:
    """What to plan; see `make_plan`.

    Args:
        recipe: the text
        token: False: anonymous
        memory: bytes that are free for the merge
        environment: variables by which object stores are reached; empty on a server for strangers
    """

    recipe: str
    to: str | None
    token: str | bool = field(repr=False)
    overwrite: bool
    pull_request: bool
    allow_folders: bool
    memory: int
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def confined_plan(request: PlanRequest) -> Plan:
    """The plan of a recipe, by `make_plan` in a process of its own. For a text that is no recipe it holds the problems.

    Raises:
        ConfinedError: a defect of Alloy, with its traceback as a note.
    """
    try:
        return Plan.from_data(PLANNED(vars(request)))
    except LimitError:
        return Plan(request.recipe, method="", problems=(over_limit(),))


def over_limit() -> Problem:
    """That work in the processes for plans exceeded one of their limits."""
    return Problem("plan-limit", {"seconds": SECONDS, "wait": WAIT, "memory": MEMORY / 1e9})


def warm_up() -> None:
    """Start a process for the first plan."""
    PLANNED.warm_up()


def ready() -> None:
    """Import what the first plan takes most of its time for."""
    import merging.planning.make  # noqa: F401


def planned(request: dict[str, Any]) -> dict[str, Any]:
    """The plan of a `PlanRequest` as data, for the process that makes it."""
    from merging.planning.make import make_plan
    from merging.recipe.reader import read_recipe

    text = request.pop("recipe")
    os.environ.update(request.pop("environment"))
    try:
        plan = make_plan(read_recipe(text), **request)
    except MergeError as error:
        plan = Plan(text, method="", problems=error.problems)
    return plan.to_data()


PLANNED = Confined(
    __name__, planned.__name__, ready=ready.__name__, seconds=SECONDS, wait=WAIT, memory=MEMORY, workers=WORKERS,
    variables=HUB_VARIABLES,
)  # fmt: skip

__all__ = ["PLANNED", "ConfinedError", "PlanRequest", "confined_plan", "warm_up"]

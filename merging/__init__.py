"""Merging language models: recipe -> plan -> shards -> destination.

from merging import make_plan, read_recipe, run_plan

recipe = read_recipe(open("recipe.yaml").read())
plan = make_plan(recipe, to="merged")
if plan.ok:
    run_plan(plan, "merged", on_progress=print)
else:
    print(*plan.problems, sep="\\n")

What it offers is listed in `merging.public` and imported when it is first asked for: the command line's help waits for
none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merging.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module("merging.public"), name)

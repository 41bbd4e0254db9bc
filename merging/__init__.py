"""Merging language models: recipe -> plan -> shards -> destination.

from merging import make_plan, read_recipe, run_plan

recipe = read_recipe(open("recipe.yaml").read())
plan = make_plan(recipe, to="merged")
if plan.ok:
    run_plan(plan, "merged", on_progress=print)
else:
    print(*plan.problems, sep="\\n")

`merging.public` lists what it offers, and is imported when that is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkpoints.lazy import offer

if TYPE_CHECKING:
    from merging.public import *  # noqa: F403

offer(__name__)

"""Finds the coefficients of a recipe, and judges them on data that the search never used.

    from searching import plan_search, read_space, run_search

    plan = plan_search(read_space(open("space.yaml").read()))
    result = run_search(plan, "folder")
    print(result.report.verdict, result.best.text)

`searching.public` lists what it offers, and is imported when that is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkpoints.lazy import offer

if TYPE_CHECKING:
    from searching.public import *  # noqa: F403

offer(__name__)

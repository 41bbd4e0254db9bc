"""The fixes of a recipe as buttons: what `merging.recipe.fixes` can do, in the visitor's language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from checkpoints.problems import Problem
from merging.recipe import fixes as mechanical
from merging.recipe.fixes import CommonBase
from ui.languages.translate import t


@dataclass(frozen=True)
class Fix:
    """A button's title, and the recipe after it was pressed."""

    title: str
    recipe: str


def fixes(recipe: str, problems: Sequence[Problem], common_base: CommonBase) -> tuple[Fix, ...]:
    """What can be done by a button, see `merging.recipe.fixes.fixes`."""
    found = mechanical.fixes(recipe, problems, common_base)
    return tuple(Fix(t(f"fix.{fix.code}", **fix.values), fix.recipe) for fix in found)

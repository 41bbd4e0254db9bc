"""The fixes of a recipe as buttons: what `merging.recipe.fixes` can do, in the visitor's language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from checkpoints.problems import Problem
from merging import MergeError, read_recipe
from merging.recipe import fixes as mechanical
from merging.recipe.fixes import CommonBase
from ui.languages.translate import t


@dataclass(frozen=True)
class QuickFix:
    """What a button does.

    Args:
        title: of the button
        recipe: after it was pressed
        name: for the result, instead of one that is taken; empty: it stays
        existing: what may happen to an existing model; empty: that stays
    """

    title: str
    recipe: str
    name: str = ""
    existing: str = ""


def fixes(recipe: str, problems: Sequence[Problem], common_base: CommonBase) -> tuple[QuickFix, ...]:
    """What can be done by a button, see `merging.recipe.fixes.fixes`; buttons of the same words name their lines."""
    found = mechanical.fixes(recipe, problems, common_base)
    titles = [t(f"fix.{fix.code}", **fix.values) for fix in found]
    counts = Counter(titles)
    return tuple(
        QuickFix(
            title if counts[title] == 1 else t("fix.line", done=title, line=_line(recipe, fix.recipe)),
            fix.recipe,
        )
        for title, fix in zip(titles, found, strict=True)
    )


def fix_all(recipe: str, problems: Sequence[Problem], common_base: CommonBase) -> tuple[QuickFix, ...]:
    """One button for all fixes between which there is nothing to choose, if there are several.

    A first mistake may hide others, so what is left is read again after each fix.

    Args:
        recipe: the text
        problems: of its plan, and its warnings
        common_base: see `merging.recipe.fixes.fixes`
    """

    def problems_of(text: str) -> Sequence[Problem]:
        if text == recipe:
            return problems
        try:
            return read_recipe(text).warnings
        except MergeError as error:
            return error.problems

    text, done = mechanical.mended(recipe, problems_of, common_base)
    return (QuickFix(t("fix.all", count=len(done)), text),) if len(done) > 1 else ()


def _line(before: str, after: str) -> int:
    """The first line that differs."""
    lines = zip_longest(before.splitlines(), after.splitlines())
    return next((number for number, (one, other) in enumerate(lines, 1) if one != other), 1)

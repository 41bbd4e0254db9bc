"""The fixes of a recipe as buttons: what `merging.recipe.fixes` can do, in the visitor's language."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest

from merging.planning.confined_fixes import Offered
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


def quick_fixes(recipe: str, offered: Offered) -> tuple[QuickFix, ...]:
    """What can be done by a button: all fixes between which there is nothing to choose, if there are several; then
    each. Buttons of the same words name their lines.
    """
    titles = [t(f"fix.{fix.code}", **fix.values) for fix in offered.fixes]
    counts = Counter(titles)
    together = QuickFix(t("fix.all", count=offered.count), offered.mended)
    return (
        *((together,) if offered.count > 1 else ()),
        *(
            QuickFix(
                title if counts[title] == 1 else t("fix.line", done=title, line=_line(recipe, fix.recipe)),
                fix.recipe,
            )
            for title, fix in zip(titles, offered.fixes, strict=True)
        ),
    )


def _line(before: str, after: str) -> int:
    """The first line that differs."""
    lines = zip_longest(before.splitlines(), after.splitlines())
    return next((number for number, (one, other) in enumerate(lines, 1) if one != other), 1)

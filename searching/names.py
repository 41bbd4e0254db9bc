"""What the recipes of a search are called, as values of remarks about it."""

from __future__ import annotations

from typing import Any

from evaluation.remark import Remark

# A value of a remark that is part of a sentence itself.
Phrase = dict[str, Any]
_NAMED = {
    "best": "recipe-best",
    "average": "recipe-average",
    "given": "recipe-given",
    "start lm_cocktail": "recipe-cocktail",
    "start greedy_soup": "recipe-soup",
}


def named(who: str) -> Phrase:
    """What a recipe is called.

    Args:
        who: `best`, or a name of the records: `average`, `given`, `start lm_cocktail`, `parent` and its name
    """
    if who in _NAMED:
        return Remark(_NAMED[who]).phrase
    return Remark("recipe-parent", {"name": short_name(who.removeprefix("parent "))}).phrase


def short_name(name: str) -> str:
    """A name that begins with a folder of this machine, without what leads to it."""
    return name.rpartition("/")[2] if name.startswith(("/", ".", "~")) else name

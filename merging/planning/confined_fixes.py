"""The fixes of a recipe, found in a process of its own: each is tried on the text, which a stranger wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from checkpoints.confined import LimitError
from checkpoints.problems import MergeError, Problem
from merging.planning.confined_plan import PLANNED
from merging.recipe.fixes import CommonBase, Fix, fixes, mended
from merging.recipe.reader import read_recipe


@dataclass(frozen=True)
class Offered:
    """What can be done about the problems of a recipe.

    Args:
        fixes: see `merging.recipe.fixes.fixes`
        mended: the text after all fixes between which there is nothing to choose
        count: how many those are
    """

    fixes: tuple[Fix, ...] = ()
    mended: str = ""
    count: int = 0


def offers(recipe: str, problems: Sequence[Problem], common_base: CommonBase) -> Offered:
    """What can be done about the problems of a recipe.

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

    text, done = mended(recipe, problems_of, common_base)
    return Offered(fixes(recipe, problems, common_base), text, len(done))


def confined_offers(recipe: str, problems: Sequence[Problem], token: str | bool) -> Offered:
    """The same, by a process of its own; nothing where that takes too long.

    Args:
        token: reads the models' cards; False: anonymous
    """
    try:
        found = OFFERED({"recipe": recipe, "problems": [asdict(each) for each in problems], "token": token})
    except LimitError:
        return Offered()
    return Offered(tuple(Fix(**fix) for fix in found["fixes"]), found["mended"], found["count"])


def offered(request: dict[str, Any]) -> dict[str, Any]:
    """The answer as data, for the process that makes it."""
    from merging.licences import common_base

    problems = [Problem.from_data(each) for each in request["problems"]]
    return asdict(offers(request["recipe"], problems, lambda names: common_base(names, request["token"])))


OFFERED = PLANNED.beside(__name__, offered.__name__)

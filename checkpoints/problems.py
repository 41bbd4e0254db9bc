"""What can be wrong, in one form: a problem says what was found, what was expected and what to do next.

    MergeError                 anything a user can be told in a sentence
      RecipeError              the recipe's text cannot be read; lists every problem with line and column
      PlanError                the recipe reads well but cannot be merged; lists every problem
      CheckpointError          a model is missing, closed, damaged, or in a form that cannot be merged
      DestinationError         the result cannot be put where it was asked for
      Cancelled                the caller asked to stop

Every other exception is a defect of Alloy and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or worth a warning.

    Args:
        code: short stable name, for programs (`unknown-method`)
        message: what was given and what was expected, one or two sentences
        fix: what to do next; empty where the message says it all
        where: the place: "line 3, column 5" in a recipe, or a path such as "models[1]"
    """

    code: str
    message: str
    fix: str = ""
    where: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f" {self.fix}" if self.fix else ""
        return f"{place}{self.message}{fix}"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class MergeError(Exception):
    """Something that a user can be told in a sentence."""

    def __init__(self, problems: Iterable[Problem] | Problem):
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[MergeError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class RecipeError(MergeError):
    """The recipe's text cannot be read as a recipe."""


class PlanError(MergeError):
    """The recipe cannot be merged as it stands."""


class CheckpointError(MergeError):
    """A model cannot be read."""


class DestinationError(MergeError):
    """The result cannot be put where it was asked for."""


class Cancelled(MergeError):  # noqa: N818 (an end that was asked for, not an error)
    """The caller asked to stop; nothing was left behind."""

    def __init__(self) -> None:
        super().__init__(Problem("cancelled", "The merge was cancelled; nothing was left behind."))

    def __reduce__(self) -> tuple[type[Cancelled], tuple[()]]:  # type: ignore[override]
        return type(self), ()


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or lists all known words."""
    known = sorted(known)
    near = difflib.get_close_matches(given.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(known)}." if known else ""

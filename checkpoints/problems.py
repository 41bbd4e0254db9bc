"""What can be wrong, in one form: a problem says what was found, what was expected and what to do next.

    ProblemError                 anything a user can be told in a sentence
      MergeError
        RecipeError              the recipe's text cannot be read; lists every problem with line and column
        PlanError                the recipe reads well but cannot be merged; lists every problem
        CheckpointError          a model is missing, closed, damaged, or in a form that cannot be merged
        DestinationError         the result cannot be put where it was asked for
        Cancelled                the caller asked to stop

Every other exception is a defect of Alloy and keeps its traceback. A problem is a code and values; its words are in
`problem_texts`, and in other languages in `ui/languages`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from checkpoints.problem_texts import PROBLEMS, WORDING


@dataclass(frozen=True, order=True)
class Place:
    """A place in a recipe's text; both count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or worth a warning.

    Args:
        code: short stable name, the key of its words in `problem_texts` (`unknown-method`)
        values: what its words are filled with, as JSON can write it
        where: a place in the recipe, or what is at fault: a model, a file, a destination
    """

    code: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)
    where: Place | str = ""

    @property
    def message(self) -> str:
        """What was given and what was expected, in English: one or two sentences."""
        return WORDING.sentence(PROBLEMS[self.code].message, self.values)

    @property
    def fix(self) -> str:
        """What to do next, in English; empty where the message says it all."""
        return WORDING.sentence(PROBLEMS[self.code].fix, self.values)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f" {self.fix}" if self.fix else ""
        return f"{place}{self.message}{fix}"

    def as_dict(self) -> dict[str, Any]:
        """For programs, as JSON: with the words, and the place as text."""
        return {
            "code": self.code,
            "message": self.message,
            "fix": self.fix,
            "where": str(self.where),
            "values": dict(self.values),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Of what `dataclasses.asdict` made of it."""
        where = data["where"]
        return cls(data["code"], data["values"], Place(**where) if isinstance(where, Mapping) else where)


class ProblemError(Exception):
    """Something that a user can be told in a sentence."""

    def __init__(self, problems: Iterable[Problem] | Problem):
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ProblemError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class MergeError(ProblemError):
    """Something is wrong with a merge."""


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
        super().__init__(Problem("cancelled"))

    def __reduce__(self) -> tuple[type[Cancelled], tuple[()]]:  # type: ignore[override]
        return type(self), ()


def suggestion(given: str, known: Iterable[str]) -> dict[str, Any]:
    """Values of a problem about an unknown word: the nearest known one (None if none is near), and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(given.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return {"near": near[0] if near else None, "known": known}

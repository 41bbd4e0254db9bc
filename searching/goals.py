"""What a search is judged by: texts, benchmarks, answers to prompts, Python functions; and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Part = Literal["search", "choice", "report"]
PARTS: tuple[Part, ...] = ("search", "choice", "report")
GoalKind = Literal["text", "dataset", "task", "chat", "python"]
GOAL_KINDS: tuple[GoalKind, ...] = ("text", "dataset", "task", "chat", "python")
# Of these a higher figure is better; of all others a lower one.
HIGHER_IS_BETTER = ("task", "python")
Way = Literal["auto", "gradient", "lbfgs", "tpe", "cmaes", "random", "grid", "qmc", "nsga2"]
Start = Literal["lm_cocktail", "greedy_soup"]
STARTS: tuple[Start, ...] = ("lm_cocktail", "greedy_soup")
WAYS: tuple[Way, ...] = get_args(Way)
# Ways that follow exact derivatives: by Adam, and by L-BFGS.
DESCENTS: tuple[Way, ...] = ("gradient", "lbfgs")


@dataclass(frozen=True)
class Limit:
    """How bad a figure may become.

    Args:
        margin: a figure, or what is added to that of a model
        of: the model: `base`, or a parent as the recipe writes it; "" for none
    """

    margin: float
    of: str = ""

    def above(self, figure: float) -> float:
        """The limit, given the model's figure."""
        return figure + self.margin if self.of else self.margin


@dataclass(frozen=True)
class Goal:
    """One thing that a recipe is judged by.

    Args:
        name: unique among the goals of a search
        kind: what `source` is
        source: a file or the name of a bundled text, a data set, a task of lm-eval, a file of prompts ("" for the
            bundled ones), or `file.py:function`
        weight: its share of the score, relative to the other goals; 0 for a guard
        limit: a guard: the most that its figure may become (of scores: the least)
        by_part: a file for each part, where the parts are given and not drawn
        questions: the most questions of a task
        few_shot: solved examples before each question of a task; None for the task's own number
        metric: of a task; "" for its first
        text: the documents that a Python function is given; "" for none
        teacher: of a text or data set: the model, as the recipe writes it, whose predictions are to be kept; the figure
            is the divergence from these. "" for the likelihood of the text
        column, rows, split, subset: of a data set
    """

    name: str
    kind: GoalKind
    source: str
    weight: float = 1.0
    limit: Limit | None = None
    by_part: Mapping[Part, str] = field(default_factory=dict)
    questions: int = 200
    few_shot: int | None = None
    metric: str = ""
    text: str = ""
    teacher: str = ""
    column: str = "text"
    rows: int = 200
    split: str = "train"
    subset: str | None = None

    @property
    def is_guard(self) -> bool:
        return self.limit is not None

    @property
    def higher_is_better(self) -> bool:
        return self.kind in HIGHER_IS_BETTER


@dataclass(frozen=True)
class Shares:
    """How documents are divided among the parts.

    Args:
        search, choice, report: shares, which add up to 1
        seed: another one draws other parts
    """

    search: float = 0.5
    choice: float = 0.2
    report: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """What the `search:` block of a space says.

    Args:
        goals: what a recipe is judged by, guards among them
        shares: of the parts
        by: how points are chosen
        trials: the most
        minutes: the most; None for no limit
        seed: of the optimiser
        starts: weights from a look at each parent, which the search starts from besides the recipe as it was given
    """

    goals: tuple[Goal, ...]
    shares: Shares = Shares()
    by: Way = "auto"
    trials: int = 60
    minutes: float | None = None
    seed: int = 0
    starts: tuple[Start, ...] = ()

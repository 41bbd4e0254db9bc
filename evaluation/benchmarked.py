"""What a model scored on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

MEAN = "mean"


@dataclass(frozen=True)
class TaskScore:
    """A model's score on one task.

    Attributes:
        task: its name.
        version: of the task's definition in lm-eval.
        metric: such as "acc", "exact_match" or "word_perplexity".
        value: the metric over all questions.
        stderr: its standard error, None where there are too few questions.
        answers: the score of each question, by its number in the data set; empty if the metric is not their mean.
        dataset: the data set on the Hub that the questions are from, "" for a file.
        subset: its configuration, None where it has one only.
        split: the part of it.
        aggregation: what lm-eval makes the metric with, such as "mean" or "bleu"; "" for a function of the task's own.
        parts: what a metric that is no mean is made of, by the question's number, such as an answer and its reference.
        higher_is_better: whether a higher value is better; None where lm-eval does not say.
    """

    task: str
    version: str
    metric: str
    value: float
    stderr: float | None
    answers: dict[int, float]
    dataset: str = ""
    subset: str | None = None
    split: str | None = None
    aggregation: str = MEAN
    parts: dict[int, Any] = field(default_factory=dict)
    higher_is_better: bool | None = None

    @property
    def questions(self) -> int:
        """How many were asked."""
        return len(self.answers) or len(self.parts)


@dataclass(frozen=True)
class Total:
    """A model's score on a task or group that was named.

    Attributes:
        name: of the task or group, such as "kmmlu".
        metric: such as "acc" or "exact_match".
        value: the metric over all its questions; for a group the mean as lm-eval weighs its parts.
        stderr: its standard error, None where there are too few questions.
        questions: how many were asked.
    """

    name: str
    metric: str
    value: float
    stderr: float | None
    questions: int


def with_error(score: TaskScore | Total, digits: int = 4) -> str:
    """A score and its standard error, such as "0.3500 ± 0.0200"; the score alone where there is none."""
    error = "" if score.stderr is None else f" ± {score.stderr:.{digits}f}"
    return f"{score.value:.{digits}f}{error}"


@dataclass(frozen=True)
class Benchmarked:
    """A model's scores, and how it was asked.

    Attributes:
        model: its name.
        commit: its commit on the Hub, None for a folder.
        dtype: what it computes in.
        few_shot: solved examples before each question; None for the task's default.
        chat_template: whether questions were wrapped in the model's chat template.
        limit: maximum number of questions per task; None for all.
        lm_eval: version of lm-eval.
        scores: one per task.
        totals: one for each name that was asked for; a group such as KMMLU has many tasks. Tags, and groups without a
            score of their own, have one for each of their parts.
    """

    model: str
    commit: str | None
    dtype: str
    few_shot: int | None
    chat_template: bool
    limit: int | None
    lm_eval: str
    scores: tuple[TaskScore, ...]
    totals: tuple[Total, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Benchmarked:
        """Of what `to_dict` made, after JSON."""
        scores = [
            {**score, "answers": _by_number(score["answers"]), "parts": _by_number(score["parts"])}
            for score in kept["scores"]
        ]
        return cls(
            **{
                **kept,
                "scores": tuple(TaskScore(**score) for score in scores),
                "totals": tuple(Total(**total) for total in kept["totals"]),
            }
        )


def _by_number(kept: Mapping[str, Any]) -> dict[int, Any]:
    """JSON has texts for keys, and lists for tuples."""
    return {int(number): plain(part) for number, part in kept.items()}


def plain(part: Any) -> Any:
    """Numbers, texts and tuples of these, as JSON and pickles take them."""
    match part:
        case bool() | int() | float() | str() | None:
            return part
        case np.generic():
            return part.item()
        case np.ndarray():
            return plain(part.tolist())
        case list() | tuple():
            return tuple(map(plain, part))
    return str(part)

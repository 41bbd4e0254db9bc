"""Two models on the same questions: which one scores higher, with an interval."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from checkpoints.problems import Problem
from evaluation.benchmarked import Benchmarked, TaskScore
from evaluation.bootstrap import paired_bootstrap
from evaluation.error import EvaluationError
from evaluation.harness import aggregation
from evaluation.remark import Remark

_Z = 1.959964  # of a 95 % interval
_Z_OF_POWER = 0.841621  # of seeing a difference in four of five samples
_FEWEST_QUESTIONS = 10
# Smaller differences of a score are not worth more questions.
_WORTH_DETECTING = 0.01
# What is said of a verdict with an interval: of mean scores, and of a metric by whether higher is better.
_VERDICTS = {"higher": "score-higher", "lower": "score-lower", "none": "score-none"}
_VERDICTS_OF_METRICS = {
    ("higher", None): "metric-higher",
    ("higher", True): "metric-higher-better",
    ("higher", False): "metric-higher-worse",
    ("lower", None): "metric-lower",
    ("lower", True): "metric-lower-worse",
    ("lower", False): "metric-lower-better",
}


@dataclass(frozen=True)
class PairedScore:
    """Two models on the same questions.

    Attributes:
        model: the model to judge.
        other: what it is compared with.
        questions: that both answered.
        difference: of the mean scores, or of `metric`; the model's minus the other's.
        interval: its 95 % interval; None with fewer than ten questions, or where the metric has none.
        metric: what is compared if it is no mean over questions, such as "mcc"; "" for mean scores.
        higher_is_better: of that metric.
        left_out: metrics of tasks that are no means over questions, and not part of the difference of means.
        detectable: the smallest true difference of mean scores that this many questions like these show with a
            probability of 80 %; None where it is unknown.
        more_questions: about how many more questions like these would show a difference of `wanted`; None where these
            show it already, or where it is unknown.
        wanted: the difference that was found, and at least 0.01.
    """

    model: str
    other: str
    questions: int
    difference: float
    interval: tuple[float, float] | None
    metric: str = ""
    higher_is_better: bool | None = None
    left_out: tuple[str, ...] = ()
    detectable: float | None = None
    more_questions: int | None = None
    wanted: float = _WORTH_DETECTING

    @property
    def verdict(self) -> Literal["higher", "lower", "none", "short"]:
        """higher or lower, if the whole interval says so; none; short where there is no interval."""
        if self.interval is None:
            return "short"
        if self.interval[0] > 0:
            return "higher"
        return "lower" if self.interval[1] < 0 else "none"

    @property
    def has_no_interval_for_its_metric(self) -> bool:
        """Whether more questions would not help."""
        return self.interval is None and self.questions >= _FEWEST_QUESTIONS

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The verdict, and what would decide it."""
        said = [self._verdict_remark]
        if self.verdict == "none" and self.detectable:
            said.append(Remark("score-detectable", {"value": self.detectable}))
        if self.verdict == "none" and self.more_questions is not None:
            said.append(Remark("score-more", {"count": self.more_questions, "value": self.wanted}))
        if self.left_out:
            said.append(Remark("score-left-out", {"metrics": list(self.left_out)}))
        return tuple(said)

    @property
    def words(self) -> str:
        """All remarks, in English."""
        return " ".join(map(str, self.remarks))

    @property
    def _verdict_remark(self) -> Remark:
        models = {"model": self.model, "other": self.other}
        if self.has_no_interval_for_its_metric:
            return Remark("metric-of-all", {**models, "metric": self.metric, "value": self.difference})
        if self.interval is None:
            return Remark("score-few", {**models, "count": self.questions, "least": _FEWEST_QUESTIONS})
        low, high = self.interval
        figures = {"value": self.difference, "count": self.questions, "low": low, "high": high}
        if self.verdict == "none" or not self.metric:
            return Remark(_VERDICTS[self.verdict], {**models, **figures})
        code = _VERDICTS_OF_METRICS[self.verdict, self.higher_is_better]
        return Remark(code, {**models, **figures, "metric": self.metric})

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "verdict": self.verdict, "words": self.words}


def paired(model: Benchmarked, other: Benchmarked) -> PairedScore:
    """Compare two models on the questions that both were asked.

    Scores that are means over questions are compared question by question, over all tasks. A single metric that is no
    mean (mcc, a perplexity) is compared by a paired bootstrap, and one made of texts (BLEU) is not compared.

    Raises:
        EvaluationError: they were asked in different ways, or nothing in common.
    """
    asked = [(one.few_shot, one.chat_template) for one in (model, other)]
    if asked[0] != asked[1]:
        values = {
            "model": model.model,
            "asked": str(asked[0]),
            "other": other.model,
            "other_asked": str(asked[1]),
        }
        raise EvaluationError(Problem("asked-otherwise", values))
    theirs = {score.task: score for score in other.scores}
    both = [
        (score, theirs[score.task])
        for score in model.scores
        if score.task in theirs and theirs[score.task].metric == score.metric
    ]
    apart = np.array(
        [
            value - two.answers[question]
            for one, two in both
            for question, value in one.answers.items()
            if question in two.answers
        ]
    )
    others = [pair for pair in both if pair[0].parts.keys() & pair[1].parts.keys()]
    if len(apart):
        left_out = tuple(f"{one.metric} of {one.task}" for one, _ in others)
        return _paired_means(model.model, other.model, apart, left_out)
    if not others:
        raise EvaluationError(Problem("no-common-question", {"model": model.model, "other": other.model}))
    found, *more = (_paired_metric(model.model, other.model, *pair) for pair in others)
    return replace(found, left_out=tuple(one.metric for one in more))


def _paired_means(
    model: str, other: str, apart: NDArray[np.float64], left_out: tuple[str, ...]
) -> PairedScore:
    """From the (n,) differences of the scores of single questions."""
    mean, count = float(apart.mean()), len(apart)
    if count < _FEWEST_QUESTIONS:
        return PairedScore(model, other, count, mean, None, left_out=left_out)
    deviation = float(apart.std(ddof=1))
    error = deviation / math.sqrt(count)
    wanted = max(abs(mean), _WORTH_DETECTING)
    needed = math.ceil(((_Z + _Z_OF_POWER) * deviation / wanted) ** 2)
    return PairedScore(
        model,
        other,
        count,
        mean,
        (mean - _Z * error, mean + _Z * error),
        left_out=left_out,
        detectable=(_Z + _Z_OF_POWER) * error,
        more_questions=needed - count if needed > count else None,
        wanted=wanted,
    )


def _paired_metric(model: str, other: str, one: TaskScore, two: TaskScore) -> PairedScore:
    """By a metric over all questions that both were asked."""
    common = sorted(one.parts.keys() & two.parts.keys())
    whole = len(common) == one.questions == two.questions
    aggregate = aggregation(one.aggregation)
    difference, interval = one.value - two.value, None
    if aggregate is not None and not any(_holds_text(one.parts[question]) for question in common):
        sides = [[side.parts[question] for question in common] for side in (one, two)]
        if not whole:
            difference = float(aggregate(sides[0])) - float(aggregate(sides[1]))
        if len(common) >= _FEWEST_QUESTIONS:
            interval = paired_bootstrap(aggregate, *sides)
    name = f"{one.metric} of {one.task}"
    return PairedScore(model, other, len(common), difference, interval, name, one.higher_is_better)


def _holds_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, tuple) and any(map(_holds_text, part)))

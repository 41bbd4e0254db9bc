"""Scores a live model on the parts of the data, and stops early where it is worse than the best so far."""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.problems import Problem
from evaluation import EvaluationError, LanguageModel, perplexity
from evaluation.benchmark import benchmark
from evaluation.chat import chat_prompt
from evaluation.chat_check import check_chat
from searching.data import Data, messages_of
from searching.figures import Figures
from searching.goals import Goal, Part, Shares
from searching.split import Document, split_documents
from searching.teachers import Teachers, divergence

# A trial ends early when it is worse than the best on the same documents at this p, after at least this many of them.
P_TO_STOP = 0.1
FEWEST_TO_STOP = 8
_BITS = 1 / math.log(2)

Function = Callable[..., Any]


@dataclass(frozen=True)
class Objective:
    """What a model is scored by.

    Args:
        goals: texts, tasks, and so on; guards among them
        data: their documents
        folder: that names of files are relative to
        function: stands in for the goals of kind `python`; None to load theirs
        shares: of the parts
        teachers: what models predict on the texts of goals that name one
    """

    goals: tuple[Goal, ...]
    data: Data
    folder: Path = Path()
    function: Function | None = None
    shares: Shares = field(default_factory=Shares)
    teachers: Teachers = field(default_factory=Teachers, compare=False)

    def read_to_teachers(self, live: Any, part: Part, cancel: threading.Event | None = None) -> None:
        """Find out what the teachers predict on a part, where that is not known; the live merge may then be any of
        them.

        Args:
            live: see `searching.workers.LiveModel`

        Raises:
            EvaluationError: one of them does not run.
            MergeError: one of them cannot be read, or has other tensors than the merge.
            Cancelled: `cancel` was set.
        """
        for goal in self.goals:
            if goal.teacher:
                texts = [as_read(live.model, document.text) for document in self.data.of(goal, part)]
                self.teachers.read(live, goal.teacher, texts, cancel)

    def score(
        self,
        model: LanguageModel,
        part: Part,
        best: Figures | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[Figures, bool]:
        """Score a model on one part.

        Args:
            model: the model
            part: of the data
            best: figures of the best model so far on the same part; None to score to the end in any case
            cancel: when set, the work ends after the current batch

        Returns:
            The figures, and whether it was scored to the end.

        Raises:
            EvaluationError: the model cannot be scored.
            Cancelled: `cancel` was set.
        """
        counted = [goal for goal in self.goals if not goal.is_guard]
        found: dict[str, list[tuple[float, float]]] = {goal.name: [] for goal in counted}
        documents = {goal.name: self.data.of(goal, part) for goal in counted}
        rounds = 1 if best is None else max(sum(map(len, documents.values())) // FEWEST_TO_STOP, 1)
        for number in range(rounds):
            for goal in counted:
                own = documents[goal.name]
                some = own[len(own) * number // rounds : len(own) * (number + 1) // rounds]
                whole = goal.kind == "python" and not goal.text
                if some or (whole and not number):
                    found[goal.name] += self.rows(model, goal, some, part, cancel)
            if best is not None and number < rounds - 1 and is_worse(found, best, counted):
                return {name: tuple(rows) for name, rows in found.items()}, False
        for goal in self.goals:
            if goal.is_guard:
                found[goal.name] = self.rows(model, goal, self.data.of(goal, part), part, cancel)
        return {name: tuple(rows) for name, rows in found.items()}, True

    def rows(
        self,
        model: LanguageModel,
        goal: Goal,
        documents: Sequence[Document],
        part: Part,
        cancel: threading.Event | None,
    ) -> list[tuple[float, float]]:
        """A numerator and a denominator for each document."""
        texts = [document.text for document in documents]
        match goal.kind:
            case "text" | "dataset" if goal.teacher:
                read = [as_read(model, text) for text in texts]
                return divergence(model, self.teachers[goal.teacher], read, cancel) if read else []
            case "text" | "dataset":
                scored = perplexity(model, [as_read(model, text) for text in texts], cancel=cancel)
                return [(one.nats * _BITS, float(one.bytes)) for one in scored.documents if one.bytes]
            case "chat":
                answers = check_chat(model, texts, cancel=cancel).answers if texts else ()
                return [(float(bool(set(one.faults) - {"cut"})), 1.0) for one in answers]
            case "task":
                return _answers(model, goal, texts, cancel)
            case "python":
                return self.scores(model, goal, texts, part)

    def scores(
        self, model: LanguageModel, goal: Goal, texts: Sequence[str], part: Part
    ) -> list[tuple[float, float]]:
        """What a Python function returns; of a function without documents those figures that are in the part."""
        function = self.function or load_function(goal.source, self.folder)
        try:
            found = function(model, list(texts)) if goal.text else function(model)
        except (Exception, SystemExit) as error:
            values = {"function": goal.source, "error": f"{type(error).__name__}: {error}"[:300]}
            raise EvaluationError(Problem("python-score", values)) from error
        try:
            numbers = _numbers(found)
            if not all(map(math.isfinite, numbers)):
                raise ValueError
        except (TypeError, ValueError) as error:
            values = {"function": goal.source, "found": repr(found)[:80]}
            raise EvaluationError(Problem("python-score-numbers", values)) from error
        if goal.text and len(numbers) != len(texts):
            counts = {"function": goal.source, "count": len(numbers), "documents": len(texts)}
            raise EvaluationError(Problem("python-score-count", counts))
        if not goal.text and len(numbers) > 1:
            names = [f"{goal.name} {number}" for number in range(len(numbers))]
            divided = split_documents({goal.name: names}, self.shares, alike=False)[goal.name]
            numbers = [one for one, place in zip(numbers, divided, strict=True) if place.part == part]
        return [(-number, 1.0) for number in numbers]


def _numbers(found: Any) -> list[float]:
    """A number, a list of numbers, or lists by name, as one list."""
    if isinstance(found, Mapping):
        return [float(number) for numbers in found.values() for number in numbers]
    return [float(found)] if isinstance(found, int | float) else [float(one) for one in found]


def is_worse(
    found: Mapping[str, Sequence[tuple[float, float]]], best: Figures, goals: Sequence[Goal]
) -> bool:
    """Whether a model is worse than the best on the documents so far, by Wilcoxon's signed-rank test of pairs."""
    from scipy.stats import wilcoxon

    apart = []
    for goal in goals:
        rivals = best[goal.name]
        if not rivals:
            continue
        size = sum(row[1] for row in rivals) / len(rivals)
        pairs = zip(found[goal.name], rivals, strict=False)
        apart += [goal.weight * (own[0] - other[0]) / (size * len(rivals)) for own, other in pairs]
    if len(apart) < FEWEST_TO_STOP or not any(apart):
        return False
    return bool(wilcoxon(apart, alternative="greater").pvalue < P_TO_STOP)


def as_read(model: LanguageModel, document: str) -> str:
    """A document as the model reads it: a conversation in the model's own form.

    Raises:
        EvaluationError: the model's template does not take the conversation.
    """
    messages = messages_of(document)
    if messages is None:
        return document
    if not model.has_chat_template:
        return "\n".join(message["content"] for message in messages)
    return chat_prompt(model, messages, "closed")


def _answers(
    model: LanguageModel, goal: Goal, questions: Sequence[str], cancel: threading.Event | None
) -> list[tuple[float, float]]:
    """The score of each question, in the order given."""
    samples: dict[str, list[int]] = {}
    for name in questions:
        task, _, number = name.rpartition("/")
        samples.setdefault(task, []).append(int(number))
    if not samples:
        return []
    found = benchmark(
        model, list(samples), samples=samples, metric=goal.metric, few_shot=goal.few_shot, cancel=cancel
    )
    answers = {
        f"{score.task}/{number}": value for score in found.scores for number, value in score.answers.items()
    }
    lacking = [name for name in questions if name not in answers]
    if lacking:
        raise EvaluationError(Problem("task-without-answers", {"task": goal.source, "count": len(lacking)}))
    return [(-answers[name], 1.0) for name in questions]


def load_function(source: str, folder: Path) -> Function:
    """Load `file.py:function`.

    Raises:
        EvaluationError: there is no such file or function, or the file cannot be run.
    """
    file, _, name = source.rpartition(":")
    path = folder / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    try:
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found: Function = getattr(module, name)
    except (Exception, SystemExit) as error:
        values = {"function": source, "error": f"{type(error).__name__}: {error}"[:300]}
        raise EvaluationError(Problem("no-python-function", values)) from error
    return found

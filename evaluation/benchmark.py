"""Benchmarks through lm-eval: KMMLU and others, with standard errors."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from checkpoints.problems import Cancelled, Problem
from evaluation.benchmarked import Benchmarked
from evaluation.error import EvaluationError, memory_named, words_of
from evaluation.harness import Answers, asked_model, manager_of, out_of_reach
from evaluation.model import LanguageModel

# Of what is kept of a result. Another number reads no earlier one.
_FORMAT = 2


def benchmark(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    chat_template: bool = False,
    samples: Mapping[str, Sequence[int]] | None = None,
    metric: str = "",
    batch_size: int = 8,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Benchmarked:
    """Ask a model the questions of some tasks.

    Args:
        model: the model.
        tasks: names of lm-eval's tasks and groups.
        folder: a folder of more tasks, in lm-eval's YAML; None for none.
        limit: maximum number of questions per task; None for all.
        few_shot: solved examples before each question; None for the task's default.
        chat_template: wrap questions in the model's chat template.
        samples: numbers of the questions to ask, by task, instead of a limit; None for all.
        metric: the score of each task to take, such as "acc" or "acc,none"; "" for the one that lm-eval lists first.
        batch_size: questions that go through the model at once.
        cache: a folder that keeps results of models at a commit, and single answers, so that a benchmark that was
            stopped (`cancel`) continues where it was; None for none.
        on_progress: called with the requests done and the number of requests of the current kind.
        cancel: when set, the work ends after the current batch.

    Raises:
        EvaluationError: lm-eval is not installed, there is no such task, its data is unavailable, or the model has no
            chat template.
        Cancelled: `cancel` was set.
    """
    _check_request(model, tasks, limit, few_shot, chat_template)
    used = _version()
    manager = manager_of(tasks, folder)
    settings: list[Any] = [list(tasks), str(folder), limit, few_shot, chat_template]
    chosen = {name: sorted(numbers) for name, numbers in (samples or {}).items()}
    if chosen or metric:
        settings += [chosen, metric]
    kept = _Kept.of(cache, model, [*settings, used])
    if kept is not None and (earlier := kept.read()):
        return earlier
    with _ended_early(model.name, tasks), memory_named(model.name, "doing-benchmark"):
        answers = Answers(manager, tasks, metric)
        answers.ask(
            asked_model(model, batch_size, on_progress, cancel),
            num_fewshot=few_shot,
            limit=limit,
            samples=chosen or None,
            apply_chat_template=chat_template,
            use_cache=kept.answers if kept else None,
            task_manager=manager,
        )
    found = Benchmarked(
        model.name, model.commit, model.dtype, few_shot, chat_template, limit, used, answers.scores(), answers.totals()
    )  # fmt: skip
    if kept is not None:
        kept.write(found)
    return found


def _version() -> str:
    """That of lm-eval, which decides the versions of its tasks.

    Raises:
        EvaluationError: it is not installed.
    """
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise EvaluationError(Problem("no-lm-eval-package")) from None


@contextmanager
def _ended_early(model: str, tasks: Sequence[str]) -> Iterator[None]:
    """A task's data is downloaded, and anything may be wrong with it: say so as an `EvaluationError`."""
    try:
        yield
    except (Cancelled, EvaluationError):
        raise
    except Exception as error:
        ended = Problem("benchmark-ended", {"model": model, "words": words_of(error)})
        raise EvaluationError(out_of_reach(tasks, error) or ended) from error


def _check_request(
    model: LanguageModel, tasks: Sequence[str], limit: int | None, few_shot: int | None, chat_template: bool
) -> None:
    if not tasks or (limit is not None and limit < 1) or (few_shot is not None and few_shot < 0):
        values = {"tasks": list(tasks), "limit": str(limit), "few_shot": str(few_shot)}
        raise EvaluationError(Problem("benchmark-request", values))
    if chat_template and not model.has_chat_template:
        raise EvaluationError(Problem("no-template-to-ask-with", {"model": model.name}))


@dataclass(frozen=True)
class _Kept:
    """Where the answers of a model at a commit are kept.

    Attributes:
        result: the file of the whole result.
        answers: lm-eval's own store of single answers, keyed by what was asked, from which what was stopped continues.
    """

    result: Path
    answers: str

    @classmethod
    def of(cls, cache: Path | None, model: LanguageModel, settings: Sequence[Any]) -> _Kept | None:
        """None for a model without a commit, whose weights may change."""
        if cache is None or model.commit is None:
            return None
        whose = [model.name, model.commit, model.dtype]
        names = (_digest([_FORMAT, *whose, *settings]), _digest([*whose, settings[-1]]))
        return cls(cache / f"{names[0]}.json", str(cache / f"answers-{names[1]}"))

    def read(self) -> Benchmarked | None:
        """An earlier result."""
        return (
            Benchmarked.from_dict(json.loads(self.result.read_text("utf-8")))
            if self.result.exists()
            else None
        )

    def write(self, found: Benchmarked) -> None:
        """Keep a result, whole or not at all."""
        self.result.parent.mkdir(parents=True, exist_ok=True)
        partial = self.result.with_suffix(".partial")
        partial.write_text(json.dumps(found.to_dict()), "utf-8")
        partial.replace(self.result)


def _digest(settings: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]

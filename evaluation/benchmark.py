"""Benchmarks, asked by lm-eval: KMMLU and others, with standard errors, models compared on the same questions."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.error import Cancelled, EvaluationError, memory_named
from evaluation.model import LanguageModel

# What is offered first; every other task of lm-eval may be named too.
BENCHMARKS = {
    "kmmlu": "Korean knowledge, 45 subjects (arXiv 2402.11548)",
    "kmmlu_hard": "its hard questions",
    "kmmlu_direct": "KMMLU with the answer written out",
    "kmmlu_direct_hard": "its hard questions, with the answer written out",
    "haerae": "Korean language and culture (arXiv 2309.02706)",
    "hellaswag": "how a scene goes on (arXiv 1905.07830)",
    "arc_easy": "school science (arXiv 1803.05457)",
    "arc_challenge": "school science, the hard part",
    "gsm8k": "sums in words, worked out (arXiv 2110.14168)",
    "ifeval": "instructions that can be checked (arXiv 2311.07911)",
}
_Z = 1.959964  # of a 95 % interval
# Where lm-eval keeps them. Its index of everything takes most of a minute.
_OFFERED = ("kmmlu", "haerae", "hellaswag", "arc", "gsm8k", "ifeval")


@dataclass(frozen=True)
class TaskScore:
    """A model's score on one task.

    Attributes:
        task: its name.
        version: of the task's definition in lm-eval.
        metric: such as "acc" or "exact_match".
        value: the mean over its questions.
        stderr: its standard error, None where there are too few questions.
        answers: the score of each question, by its number in the data set.
        dataset: the data set on the Hub that the questions are from, "" for a file.
        subset: its configuration, None where it has one only.
        split: the part of it.
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


@dataclass(frozen=True)
class Total:
    """A model's score on a task or group as it was asked for.

    Attributes:
        name: of the task or group, such as "kmmlu".
        metric: such as "acc" or "exact_match".
        value: the mean over all its questions, as lm-eval weighs its parts.
        stderr: its standard error, None where there are too few questions.
        questions: that were asked.
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
    """A model's scores, and how they were asked for.

    Attributes:
        model: its name.
        commit: its commit on the Hub, None for a folder.
        dtype: what it computed in.
        few_shot: solved examples before each question, None for the task's own number.
        chat_template: whether questions were put in the model's own form of a conversation.
        limit: questions of each task at most, None for all.
        lm_eval: version of lm-eval.
        scores: a task each.
        totals: one for each name that was asked for; a group such as KMMLU has many tasks.
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


@dataclass(frozen=True)
class PairedScore:
    """Two models on the same questions of all tasks.

    Attributes:
        model: the model that is judged.
        other: what it is held against.
        questions: that both answered.
        difference: mean score of the model minus that of the other.
        interval: its 95 % interval, None with fewer than ten questions.
    """

    model: str
    other: str
    questions: int
    difference: float
    interval: tuple[float, float] | None

    @property
    def words(self) -> str:
        """What can be said, in a sentence."""
        if self.interval is None:
            return f"{self.questions} question(s) are too few to compare {self.model} with {self.other}."
        low, high = self.interval
        figures = (
            f"{self.difference:+.3f} on {self.questions} questions, 95 % interval {low:+.3f} to {high:+.3f}"
        )
        if low <= 0 <= high:
            return f"{self.model} and {self.other}: no difference that these questions can show ({figures})."
        return f"{self.model} scores {'higher' if low > 0 else 'lower'} than {self.other} ({figures})."


def benchmark(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    chat_template: bool = False,
    batch_size: int = 8,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Benchmarked:
    """Ask a model the questions of some tasks.

    Args:
        model: the model.
        tasks: names of lm-eval's tasks and groups.
        folder: of more tasks, in the YAML of lm-eval; None for none.
        limit: questions of each task at most; None for all.
        few_shot: solved examples before each question; None for the task's own number.
        chat_template: put questions in the model's own form of a conversation.
        batch_size: questions that go through the model at once.
        cache: a folder of earlier results of models at a commit, single answers included, so that what was stopped
            (`cancel`) goes on where it stood; None for none.
        on_progress: called with the requests done and the requests in all of the kind that is under way.
        cancel: when set, the work ends after the batch at hand.

    Raises:
        EvaluationError: lm-eval is not here, there is no such task, its data cannot be had, or the model has
            no chat template.
        Cancelled: `cancel` was set.
    """
    if not tasks or (limit is not None and limit < 1) or (few_shot is not None and few_shot < 0):
        raise EvaluationError(f"tasks={list(tasks)}, limit={limit}, few_shot={few_shot}: expected at least one task, at"
                              " least 1, and at least 0.")  # fmt: skip
    if chat_template and not model.has_chat_template:
        raise EvaluationError(
            f"{model.name} has no chat template. Ask it without, or copy one from a parent."
        )
    try:
        from lm_eval import simple_evaluate
    except ImportError:
        raise EvaluationError(
            "Benchmarks are asked by lm-eval, which is not installed. Run `pip install lm_eval`."
        ) from None
    manager = _tasks_known(folder, everything=False)
    if not set(tasks) <= set(manager.all_tasks):
        manager = _tasks_known(folder, everything=True)
    for task in tasks:
        if task not in manager.all_tasks:
            raise EvaluationError(f"lm-eval has no task {task!r}. Offered first: {', '.join(BENCHMARKS)}.")
    used = version("lm_eval")  # which decides the versions of its tasks
    settings = [
        model.name,
        model.commit,
        model.dtype,
        list(tasks),
        str(folder),
        limit,
        few_shot,
        chat_template,
    ]
    kept = answers = None
    if cache is not None and model.commit is not None:
        digest = hashlib.sha256(json.dumps([*settings, used]).encode()).hexdigest()[:24]
        kept = cache / f"{digest}.json"
        if kept.exists():
            return _from_dict(json.loads(kept.read_text("utf-8")))
        # lm-eval's own store of single answers, keyed by what was asked: whoever was stopped goes on from there.
        whose = json.dumps([model.name, model.commit, model.dtype, used])
        answers = str(cache / f"answers-{hashlib.sha256(whose.encode()).hexdigest()[:24]}")
    asking = _adapter(model, batch_size, on_progress, cancel)
    try:
        with memory_named(model.name, "answering a benchmark"):
            answered: Any = simple_evaluate(
                asking,
                tasks=list(tasks),
                num_fewshot=few_shot,
                limit=limit,
                apply_chat_template=chat_template,
                bootstrap_iters=1000,
                use_cache=answers,
                task_manager=manager,
            )
    except (Cancelled, EvaluationError):
        raise
    except Exception as error:
        # The data of a task comes from strangers, and from far away.
        raise EvaluationError(f"{model.name}: the benchmark ended early. {_words(error)}") from error
    found = Benchmarked(
        model.name,
        model.commit,
        model.dtype,
        few_shot,
        chat_template,
        limit,
        used,
        tuple(_score(name, answered) for name in answered["samples"]),
        tuple(_total(name, answered) for name in tasks),
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(found.to_dict()), "utf-8")
        partial.replace(kept)
    return found


def fetch_questions(tasks: Sequence[str], folder: Path | None = None) -> None:
    """Bring the questions of tasks to this machine, so that `benchmark` asks nobody for them.

    Args:
        tasks: names of lm-eval's tasks and groups.
        folder: of more tasks, in the YAML of lm-eval; None for none.

    Raises:
        EvaluationError: they cannot be had.
    """
    try:
        _tasks_known(folder, everything=False).load(list(tasks))
    except Exception as error:
        raise EvaluationError(f"The questions cannot be had. {_words(error)}") from error


def tasks_in(folder: Path) -> list[str]:
    """The tasks and groups of a folder of lm-eval's YAML."""
    return sorted(
        set(_tasks_known(folder, everything=False).all_tasks)
        - set(_tasks_known(None, everything=False).all_tasks)
    )


def paired(model: Benchmarked, other: Benchmarked) -> PairedScore:
    """Compare two models on the questions that both were asked.

    Raises:
        EvaluationError: they were asked in different ways, or nothing in common.
    """
    asked = [(one.few_shot, one.chat_template) for one in (model, other)]
    if asked[0] != asked[1]:
        raise EvaluationError(
            f"{model.model} was asked with few_shot and chat_template {asked[0]}, {other.model} with"
            f" {asked[1]}. Ask both the same way."
        )
    theirs = {score.task: score.answers for score in other.scores}
    apart = np.array(
        [
            value - theirs[score.task][question]
            for score in model.scores
            for question, value in score.answers.items()
            if question in theirs.get(score.task, {})
        ]
    )
    if not len(apart):
        raise EvaluationError(f"{model.model} and {other.model} were asked no question in common.")
    mean = float(apart.mean())
    reach = _Z * float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) >= 10 else None
    interval = None if reach is None else (mean - reach, mean + reach)
    return PairedScore(model.model, other.model, len(apart), mean, interval)


@functools.cache
def _tasks_known(folder: Path | None, *, everything: bool) -> Any:
    """lm-eval's index of tasks: of those that are offered, or of all."""
    from lm_eval import tasks

    own = Path(tasks.__file__).parent
    return tasks.TaskManager(
        include_path=[
            *([] if everything else [own / name for name in _OFFERED]),
            *([folder] if folder else []),
        ],
        include_defaults=everything,
    )


def _score(task: str, answered: Any) -> TaskScore:
    metric, chosen, value, stderr = _first_metric(answered["results"][task])
    samples = [one for one in answered["samples"][task] if one.get("filter", chosen) == chosen]
    asked = answered["configs"][task]
    return TaskScore(
        task,
        str(answered["versions"].get(task, "")),
        metric,
        value,
        stderr,
        {int(one["doc_id"]): float(np.mean(one[metric])) for one in samples},
        path if (path := str(asked.get("dataset_path") or "")).count("/") == 1 else "",
        asked.get("dataset_name"),
        asked.get("test_split") or asked.get("validation_split"),
    )


def _words(error: Exception) -> str:
    words = " ".join(str(error).split())[:300] or type(error).__name__
    return f"A task's data may be gated or out of reach; lm-eval says: {words}"


def _total(name: str, answered: Any) -> Total:
    metric, _, value, stderr = _first_metric(answered["results"][name])
    parts, tasks = [name], set()
    while parts:  # groups of groups
        part = parts.pop()
        below = answered["group_subtasks"].get(part, [])
        parts += below
        tasks |= set() if below else {part}
    questions = sum(answered["n-samples"][task]["effective"] for task in tasks)
    return Total(name, metric, value, stderr, questions)


def _first_metric(results: dict[str, Any]) -> tuple[str, str, float, float | None]:
    """Name, filter, value and standard error of the metric that lm-eval lists first."""
    named = next(key for key in results if "," in key and "_stderr" not in key)
    metric, _, chosen = named.partition(",")
    stderr = results.get(f"{metric}_stderr,{chosen}")
    if not isinstance(stderr, float) or not math.isfinite(stderr):
        stderr = None
    return metric, chosen, float(results[named]), stderr


def _from_dict(kept: dict[str, Any]) -> Benchmarked:
    scores = [
        TaskScore(**{**score, "answers": {int(key): value for key, value in score["answers"].items()}})
        for score in kept.pop("scores")
    ]
    totals = tuple(Total(**total) for total in kept.pop("totals"))
    return Benchmarked(**kept, scores=tuple(scores), totals=totals)


def _adapter(
    model: LanguageModel,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
    cancel: threading.Event | None,
) -> Any:
    """lm-eval's own model class around ours, which counts and can be stopped."""
    from lm_eval.models.huggingface import HFLM

    class Asked(HFLM):  # type: ignore[misc]
        done = total = 0

        def _counted(self, rows: int) -> None:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            self.done = min(self.done + rows, self.total)
            if on_progress is not None:
                on_progress(self.done, self.total)

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **settings: Any) -> Any:
            self.done, self.total = 0, len(requests)
            answers = super()._loglikelihood_tokens(requests, *args, **{**settings, "disable_tqdm": True})
            self._counted(self.total)  # requests that share a context were asked together
            return answers

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.done, self.total = 0, len(requests)
            return super().generate_until(requests, disable_tqdm=True)

        def _model_call(self, inps: Any, *args: Any, **settings: Any) -> Any:
            self._counted(len(inps))
            return super()._model_call(inps, *args, **settings)

        def _model_generate(self, context: Any, *args: Any, **settings: Any) -> Any:
            self._counted(len(context))
            return super()._model_generate(context, *args, **settings)

    asked = Asked(
        pretrained=model.network,
        tokenizer=model.tokenizer,
        max_length=model.context,
        batch_size=batch_size,
    )
    asked._device = torch.device(model.device)  # of a model that lies on the disk it takes "meta"
    return asked

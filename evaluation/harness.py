"""All that is taken from lm-eval: its index of tasks, the model that it asks, and the scores in its answers."""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from checkpoints.chat_template import Ending
from checkpoints.problems import Cancelled, Problem
from evaluation.benchmarked import MEAN, TaskScore, Total, plain
from evaluation.chat import chat_prompt
from evaluation.error import EvaluationError, words_of
from evaluation.model import LanguageModel

# Offered first; any other task of lm-eval can be named too.
BENCHMARKS = {
    "kmmlu": "Korean knowledge, 45 subjects (arXiv 2402.11548)",
    "kmmlu_hard": "its hard questions",
    "kmmlu_direct": "KMMLU with the answer written out",
    "kmmlu_direct_hard": "its hard questions, with the answer written out",
    "haerae": "Korean language and culture (arXiv 2309.02706)",
    "hellaswag": "how a scene continues (arXiv 1905.07830)",
    "arc_easy": "school science (arXiv 1803.05457)",
    "arc_challenge": "school science, the hard part",
    "gsm8k": "sums in words, worked out (arXiv 2110.14168)",
    "ifeval": "instructions that can be checked (arXiv 2311.07911)",
}
# Their folders in lm-eval. Its index of everything takes most of a minute.
_OFFERED = ("kmmlu", "haerae", "hellaswag", "arc", "gsm8k", "ifeval")

# What libraries raise where there is no connection, by the names of its classes: each library has its own.
OUT_OF_REACH = (
    "ConnectionError", "ConnectError", "ConnectTimeout", "LocalEntryNotFoundError", "MaxRetryError",
    "OfflineModeIsEnabled", "ProxyError",
)  # fmt: skip


def manager_of(tasks: Sequence[str], folder: Path | None) -> Any:
    """lm-eval's index that knows these tasks.

    Raises:
        EvaluationError: there is none.
    """
    manager = _tasks_known(folder, everything=False)
    if not set(tasks) <= set(manager.all_tasks):
        manager = _tasks_known(folder, everything=True)
    for task in tasks:
        if task not in manager.all_tasks:
            raise EvaluationError(Problem("no-task", {"task": task, "known": list(BENCHMARKS)}))
    return manager


@functools.cache
def _tasks_known(folder: Path | None, *, everything: bool) -> Any:
    """lm-eval's index of tasks: of those offered, or of all."""
    from lm_eval import tasks

    own = Path(tasks.__file__).parent
    return tasks.TaskManager(
        include_path=[
            *([] if everything else [own / name for name in _OFFERED]),
            *([folder] if folder else []),
        ],
        include_defaults=everything,
    )


def tasks_in(folder: Path) -> list[str]:
    """The tasks and groups in a folder of lm-eval's YAML."""
    return sorted(
        set(_tasks_known(folder, everything=False).all_tasks)
        - set(_tasks_known(None, everything=False).all_tasks)
    )


def fetch_questions(tasks: Sequence[str], folder: Path | None = None) -> None:
    """Download the questions of tasks, so that `benchmark` needs no network.

    Args:
        tasks: names of lm-eval's tasks and groups.
        folder: a folder of more tasks, in lm-eval's YAML; None for none.

    Raises:
        EvaluationError: they are unavailable.
    """
    try:
        _tasks_known(folder, everything=False).load(list(tasks))
    except Exception as error:
        raise EvaluationError(_unavailable(tasks, error)) from error


def _unavailable(tasks: Sequence[str], error: Exception) -> Problem:
    """Why questions cannot be had: in plain words where the Hub is out of reach, else in lm-eval's."""
    return out_of_reach(tasks, error) or Problem("no-questions", {"words": words_of(error)})


def out_of_reach(tasks: Sequence[str], error: Exception) -> Problem | None:
    """That the questions of tasks could not be fetched, if an error of lm-eval comes from a missing connection."""
    if any(type(one).__name__ in OUT_OF_REACH for one in _causes(error)):
        return Problem("questions-out-of-reach", {"tasks": list(tasks)})
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def question_counts(tasks: Sequence[str], folder: Path | None = None) -> dict[str, int]:
    """How many questions each task has, of those that are named and in groups that are.

    Args:
        tasks: names of lm-eval's tasks and groups.
        folder: a folder of more tasks, in lm-eval's YAML; None for none.

    Raises:
        EvaluationError: there is no such task, or its data is unavailable.
    """
    manager = manager_of(tasks, folder)
    try:
        found = manager.load(list(tasks))["tasks"]
        return {name: len(task.eval_docs) for name, task in found.items()}
    except Exception as error:
        raise EvaluationError(_unavailable(tasks, error)) from error


def aggregation(name: str) -> Callable[[list[Any]], float] | None:
    """lm-eval's function of this name, None for those of single tasks."""
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    return AGGREGATION_REGISTRY.get(name) if name in AGGREGATION_REGISTRY else None


def asked_model(
    model: LanguageModel,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
    cancel: threading.Event | None,
) -> Any:
    """lm-eval's model class around ours, which reports progress and can be stopped."""
    from lm_eval.models.huggingface import HFLM

    class HarnessModel(HFLM):  # type: ignore[misc]
        done = total = 0

        def _create_tokenizer(self, *args: Any, **settings: Any) -> None:
            self.tokenizer = model.tokenizer  # which may be none of transformers' own classes

        def _counted(self, rows: int) -> None:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            self.done = min(self.done + rows, self.total)
            if on_progress is not None:
                on_progress(self.done, self.total)

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **settings: Any) -> Any:
            self.done, self.total = 0, len(requests)
            answers = super()._loglikelihood_tokens(requests, *args, **{**settings, "disable_tqdm": True})
            self._counted(self.total)  # requests that share a context go through the model together
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

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            turns = [message for message in chat_history if message["role"] != "system"]
            ending: Ending = "answer" if add_generation_prompt else "open"
            try:
                return chat_prompt(model, chat_history, ending)
            except EvaluationError:
                if len(turns) == len(chat_history):
                    raise
            return chat_prompt(model, turns, ending)  # as lm-eval does

    asked = HarnessModel(
        pretrained=model.network,
        max_length=model.context,
        batch_size=batch_size,
    )
    asked._device = torch.device(model.device)  # it takes "meta" for an offloaded model
    return asked


class Answers:
    """What lm-eval answers about some names of tasks, tags and groups.

    Args:
        manager: its index, which knows the names.
        names: what was asked for.
        metric: the score of each task to take, such as "acc" or "acc,none"; "" for the one that lm-eval lists first.

    Raises:
        EvaluationError: two groups have a task in common, which lm-eval cannot ask for both.
    """

    def __init__(self, manager: Any, names: Sequence[str], metric: str = "") -> None:
        self._metric = metric
        self._loaded = {name: manager.load([name]) for name in names}
        self._answered: Any = None
        groups = [name for name, found in self._loaded.items() if name in found["groups"]]
        for one, two in itertools.combinations(groups, 2):
            common = sorted(self._loaded[one]["tasks"].keys() & self._loaded[two]["tasks"].keys())
            if common:
                raise EvaluationError(Problem("common-task", {"one": one, "two": two, "task": common[0]}))

    def ask(self, asking: Any, **settings: Any) -> None:
        """Ask all questions.

        Args:
            asking: what `asked_model` made.
            settings: of lm-eval's `simple_evaluate`.
        """
        from lm_eval import simple_evaluate

        # For the error of some metrics it would fork this process, whose other threads may hold locks.
        os.environ["DISABLE_MULTIPROC"] = "1"
        tasks = list(_items(self._loaded))
        self._answered = simple_evaluate(asking, tasks=tasks, bootstrap_iters=1000, **settings)

    def scores(self) -> tuple[TaskScore, ...]:
        """One for each task that computes something."""
        tasks = {task: found["tasks"][task] for found in self._loaded.values() for task in found["tasks"]}
        scores = (
            _score(task, tasks[task], self._answered, self._metric) for task in self._answered["samples"]
        )
        return tuple(score for score in scores if score)

    def totals(self) -> tuple[Total, ...]:
        """One for each name, or for each of its parts, if it has no score of its own."""
        names = dict.fromkeys(
            part
            for name, found in self._loaded.items()
            for part in _with_a_score(name, found, self._answered)
        )
        return tuple(_total(name, self._answered) for name in names)


def _items(loaded: Mapping[str, Any]) -> Iterator[Any]:
    """What lm-eval is asked to ask: groups, and the tasks of other names that are in none of them, each once."""
    asked: set[str] = set()
    for name, found in loaded.items():
        if name in found["groups"]:
            asked |= found["tasks"].keys()
            yield found["groups"][name]
    for name, found in loaded.items():
        if name not in found["groups"]:
            yield from (task for key, task in found["tasks"].items() if key not in asked)
            asked |= found["tasks"].keys()


def _with_a_score(name: str, loaded: Any, answered: Any) -> Iterator[str]:
    """The name itself, or its parts, if it is a tag or a group that has no score."""
    if _first_metric(answered["results"].get(name, {})):
        yield name
    elif name in loaded["tasks"]:
        return  # a task that computes nothing
    else:
        for part in loaded["group_map"].get(name) or loaded["tasks"]:
            yield from _with_a_score(part, loaded, answered)


def _score(name: str, task: Any, answered: Any, wanted: str) -> TaskScore | None:
    """A task's score by the metric that is wanted, None where it computes no such thing."""
    found = _first_metric(answered["results"][name], wanted)
    if found is None:
        return None
    metric, chosen, value, stderr = found
    samples = {
        int(one["doc_id"]): one[metric]
        for one in answered["samples"][name]
        if one.get("filter", chosen) == chosen and metric in one
    }
    made_by = _name_of(task.aggregation().get(metric))
    answers = _means(samples, value) if made_by in (MEAN, "nanmean") else {}
    asked = answered["configs"][name]
    better = answered["higher_is_better"].get(name, {}).get(metric)
    return TaskScore(
        name,
        str(answered["versions"].get(name, "")),
        metric,
        value,
        stderr,
        answers,
        path if (path := str(asked.get("dataset_path") or "")).count("/") == 1 else "",
        asked.get("dataset_name"),
        asked.get("test_split") or asked.get("validation_split"),
        made_by,
        {} if answers else {number: plain(part) for number, part in samples.items()},
        better if isinstance(better, bool) else None,
    )


def _name_of(aggregation: Any) -> str:
    """Its name in lm-eval's registry, "" for a function of the task's own."""
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    return next((name for name, function in AGGREGATION_REGISTRY.items() if function is aggregation), "")


def _means(samples: Mapping[int, Any], value: float) -> dict[int, float]:
    """The score of each question, if the metric is their mean."""
    try:
        scores = {number: float(np.mean(score)) for number, score in samples.items()}
    except (TypeError, ValueError):
        return {}
    known = {number: score for number, score in scores.items() if not math.isnan(score)}
    return known if known and math.isclose(np.mean(list(known.values())), value, abs_tol=1e-9) else {}


def _total(name: str, answered: Any) -> Total:
    found = _first_metric(answered["results"][name])
    assert found is not None  # by `_with_a_score`
    metric, _, value, stderr = found
    parts, tasks = [name], set()
    while parts:  # groups of groups
        part = parts.pop()
        below = answered["group_subtasks"].get(part, [])
        parts += below
        tasks |= set() if below else {part}
    questions = sum(answered["n-samples"][task]["effective"] for task in tasks)
    return Total(name, metric, value, stderr, questions)


def _first_metric(
    results: Mapping[str, Any], wanted: str = ""
) -> tuple[str, str, float, float | None] | None:
    """Name, filter, value and standard error of the number that is wanted, or that lm-eval lists first."""
    for named, value in results.items():
        metric, comma, chosen = named.partition(",")
        if wanted not in ("", metric, named):
            continue
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float, np.number)):
            stderr = results.get(f"{metric}_stderr,{chosen}")
            known = isinstance(stderr, (float, np.floating)) and math.isfinite(stderr)
            return metric, chosen, float(value), float(stderr or 0) if known else None
    return None

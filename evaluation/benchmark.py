"""Benchmarks through lm-eval: KMMLU and others, with standard errors, and models compared on the same questions."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.problems import Problem
from evaluation.bootstrap import paired_bootstrap
from evaluation.error import Cancelled, EvaluationError, memory_named
from evaluation.model import LanguageModel

# Offered first; any other task of lm-eval can be named too.
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
_Z_OF_POWER = 0.841621  # of seeing a difference in four of five samples
_FEWEST_QUESTIONS = 10
# Smaller differences of a score are not worth more questions.
_WORTH_DETECTING = 0.01
_MEAN = "mean"
# Of what is kept of a result. Another number reads no earlier one.
_FORMAT = 2
# Their folders in lm-eval. Its index of everything takes most of a minute.
_OFFERED = ("kmmlu", "haerae", "hellaswag", "arc", "gsm8k", "ifeval")


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
    aggregation: str = _MEAN
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
        detectable: the smallest true difference of mean scores that so many questions like these show with a
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
    def words(self) -> str:
        """What can be said, in sentences."""
        said = [self._verdict_in_words]
        if self.verdict == "none" and self.detectable:
            said.append(f"So many questions mostly show differences of {self.detectable:.3f} and more.")
        if self.verdict == "none" and self.more_questions is not None:
            said.append(
                f"About {self.more_questions:,} more questions like these would show a difference of {self.wanted:.2g}."
            )
        if self.left_out:
            said.append(f"Not means over questions, and not compared here: {', '.join(self.left_out)}.")
        return " ".join(said)

    @property
    def _verdict_in_words(self) -> str:
        if self.has_no_interval_for_its_metric:
            return (
                f"{self.metric} is computed over all questions at once ({self.difference:+.3f}), so {self.model} and"
                f" {self.other} are not compared question by question."
            )
        if self.interval is None:
            return f"{self.questions} question(s) are too few to compare {self.model} with {self.other}."
        low, high = self.interval
        figures = (
            f"{self.difference:+.3f} on {self.questions} questions, 95 % interval {low:+.3f} to {high:+.3f}"
        )
        if self.verdict == "none":
            return f"{self.model} and {self.other}: no difference that these questions can show ({figures})."
        if not self.metric:
            return f"{self.model} scores {self.verdict} than {self.other} ({figures})."
        better = "better" if self.higher_is_better is (self.verdict == "higher") else "worse"
        which = "" if self.higher_is_better is None else f" ({better})"
        return f"{self.model} has a {self.verdict}{which} {self.metric} than {self.other} ({figures})."

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "verdict": self.verdict, "words": self.words}


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
        folder: a folder of more tasks, in lm-eval's YAML; None for none.
        limit: maximum number of questions per task; None for all.
        few_shot: solved examples before each question; None for the task's default.
        chat_template: wrap questions in the model's chat template.
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
    try:
        from lm_eval import simple_evaluate
    except ImportError:
        raise EvaluationError(Problem("no-lm-eval-package")) from None
    manager = _manager_of(tasks, folder)
    used = version("lm_eval")  # which decides the versions of its tasks
    kept = _Kept.of(cache, model, [list(tasks), str(folder), limit, few_shot, chat_template, used])
    if kept is not None and (earlier := kept.read()):
        return earlier
    asking = _adapter(model, batch_size, on_progress, cancel)
    try:
        with memory_named(model.name, "doing-benchmark"):
            loaded = {name: manager.load([name]) for name in tasks}
            answered: Any = simple_evaluate(
                asking,
                tasks=[item for name, found in loaded.items() for item in _items(name, found)],
                num_fewshot=few_shot,
                limit=limit,
                apply_chat_template=chat_template,
                bootstrap_iters=1000,
                use_cache=kept.answers if kept else None,
                task_manager=manager,
            )
    except (Cancelled, EvaluationError):
        raise
    except Exception as error:
        # A task's data is downloaded, and anything may be wrong with it.
        values = {"model": model.name, "words": _words(error)}
        raise EvaluationError(Problem("benchmark-ended", values)) from error
    objects = {task: found["tasks"][task] for found in loaded.values() for task in found["tasks"]}
    scores = [_score(task, objects[task], answered) for task in answered["samples"]]
    names = dict.fromkeys(
        part for name, found in loaded.items() for part in _with_a_score(name, found, answered)
    )
    found = Benchmarked(
        model.name,
        model.commit,
        model.dtype,
        few_shot,
        chat_template,
        limit,
        used,
        tuple(score for score in scores if score),
        tuple(_total(name, answered) for name in names),
    )
    if kept is not None:
        kept.write(found)
    return found


def _check_request(
    model: LanguageModel, tasks: Sequence[str], limit: int | None, few_shot: int | None, chat_template: bool
) -> None:
    if not tasks or (limit is not None and limit < 1) or (few_shot is not None and few_shot < 0):
        values = {"tasks": list(tasks), "limit": str(limit), "few_shot": str(few_shot)}
        raise EvaluationError(Problem("benchmark-request", values))
    if chat_template and not model.has_chat_template:
        raise EvaluationError(Problem("no-template-to-ask-with", {"model": model.name}))


def _manager_of(tasks: Sequence[str], folder: Path | None) -> Any:
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
        return _from_dict(json.loads(self.result.read_text("utf-8"))) if self.result.exists() else None

    def write(self, found: Benchmarked) -> None:
        """Keep a result, whole or not at all."""
        self.result.parent.mkdir(parents=True, exist_ok=True)
        partial = self.result.with_suffix(".partial")
        partial.write_text(json.dumps(found.to_dict()), "utf-8")
        partial.replace(self.result)


def _digest(settings: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]


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
        raise EvaluationError(Problem("no-questions", {"words": _words(error)})) from error


def tasks_in(folder: Path) -> list[str]:
    """The tasks and groups in a folder of lm-eval's YAML."""
    return sorted(
        set(_tasks_known(folder, everything=False).all_tasks)
        - set(_tasks_known(None, everything=False).all_tasks)
    )


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
    aggregate = _aggregation(one.aggregation)
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


def _aggregation(name: str) -> Callable[[list[Any]], float] | None:
    """lm-eval's function of this name, None for those of single tasks."""
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    return AGGREGATION_REGISTRY.get(name) if name in AGGREGATION_REGISTRY else None


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


def _items(name: str, loaded: Any) -> list[Any]:
    """What lm-eval is asked to ask: a group, or the tasks of a name that is none."""
    return [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())


def _with_a_score(name: str, loaded: Any, answered: Any) -> Iterator[str]:
    """The name itself, or its parts, if it is a tag or a group that has no score."""
    if _first_metric(answered["results"].get(name, {})):
        yield name
    elif name in loaded["tasks"]:
        return  # a task that computes nothing
    else:
        for part in loaded["group_map"].get(name) or loaded["tasks"]:
            yield from _with_a_score(part, loaded, answered)


def _score(name: str, task: Any, answered: Any) -> TaskScore | None:
    """A task's score, None where it computes nothing."""
    found = _first_metric(answered["results"][name])
    if found is None:
        return None
    metric, chosen, value, stderr = found
    samples = {
        int(one["doc_id"]): one[metric]
        for one in answered["samples"][name]
        if one.get("filter", chosen) == chosen and metric in one
    }
    aggregation = _name_of(task.aggregation().get(metric))
    answers = _means(samples, value) if aggregation in (_MEAN, "nanmean") else {}
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
        aggregation,
        {} if answers else {number: _plain(part) for number, part in samples.items()},
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


def _plain(part: Any) -> Any:
    """Numbers, texts and tuples of these, as JSON and pickles take them."""
    match part:
        case bool() | int() | float() | str() | None:
            return part
        case np.generic():
            return part.item()
        case np.ndarray():
            return _plain(part.tolist())
        case list() | tuple():
            return tuple(map(_plain, part))
    return str(part)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


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


def _first_metric(results: Mapping[str, Any]) -> tuple[str, str, float, float | None] | None:
    """Name, filter, value and standard error of the number that lm-eval lists first."""
    for named, value in results.items():
        metric, comma, chosen = named.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float, np.number)):
            stderr = results.get(f"{metric}_stderr,{chosen}")
            known = isinstance(stderr, (float, np.floating)) and math.isfinite(stderr)
            return metric, chosen, float(value), float(stderr or 0) if known else None
    return None


def _from_dict(kept: dict[str, Any]) -> Benchmarked:
    scores = [
        TaskScore(
            **{
                **score,
                "answers": {int(key): value for key, value in score["answers"].items()},
                "parts": {int(key): _plain(part) for key, part in score["parts"].items()},
            }
        )
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
    """lm-eval's model class around ours, which reports progress and can be stopped."""
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

    asked = Asked(
        pretrained=model.network,
        tokenizer=model.tokenizer,
        max_length=model.context,
        batch_size=batch_size,
    )
    asked._device = torch.device(model.device)  # it takes "meta" for an offloaded model
    return asked

"""Exact derivatives of a score by the numbers of a recipe.

One backward pass through the live model gives the gradient of the score by each merged tensor. Its dot product with a
parent's change is the derivative by that parent's coefficient; the method's own formula and the recipe's gradients over
layers lead from there to the numbers of the recipe. All of them cost the same pass.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter as Weights
from torch.nn import functional

from checkpoints.problems import MergeError, Problem
from checkpoints.wording import few
from evaluation import LanguageModel
from evaluation.error import memory_named
from evaluation.perplexity import Logits, ScoringPlan
from merging import METHODS, MergeMethod, Parameter, Plan, Recipe
from merging.plan import PlannedTensor, Value
from searching.live_merge import LiveMerge
from searching.operands import are_sums

# Step of the differences by which a formula of a few numbers is differentiated, in float64.
STEP = 1e-6
# Where two plans are compared, as shares of the ranges from the start: no round numbers, which may be special.
BESIDE, BEYOND = 0.0517, 0.0917
# Tokens that go through the model together at most on a GPU, for a backward pass needs what each layer made of them; on
# a processor no more go together than where nothing but the score is wanted.
BATCH_TOKENS: dict[str, int] = {"cuda": 4096}


class Coefficients(Protocol):
    """Numbers of a recipe that may change."""

    @property
    def start(self) -> Sequence[float]:
        """N numbers to begin with."""

    @property
    def low(self) -> Sequence[float]:
        """The least value of each."""

    @property
    def high(self) -> Sequence[float]:
        """The largest value of each."""

    def recipe(self, values: Sequence[float]) -> Recipe:
        """The recipe with these N numbers."""


class Predictions(Protocol):
    """What a model predicts on texts that it has read."""

    def predictions(self, ids: Tensor, scored: int) -> Callable[[slice], Tensor]:
        """The (m, vocabulary) float32 log-probabilities at any m of the last `scored` of (n + 1,) int64 tokens."""


@dataclass(frozen=True)
class TextObjective:
    """A text that the merge is to predict well.

    Attributes:
        texts: documents.
        weight: how much it counts beside other objectives.
        teacher: a model with the same tokens, or what it predicts, which is the target by Kullback-Leibler divergence;
            None: the text itself is, by its likelihood.
    """

    texts: tuple[str, ...]
    weight: float = 1.0
    teacher: LanguageModel | Predictions | None = field(default=None, compare=False)


class Loss(NamedTuple):
    """A score and its derivatives.

    Args:
        value: the weighted mean of the objectives, in bits per byte
        by_objective: each of them
        gradient: (N,) float64, derivatives of the value
    """

    value: float
    by_objective: tuple[float, ...]
    gradient: NDArray[np.float64]


def has_derivative(method: MergeMethod, parameter: Parameter, arguments: Mapping[str, Any]) -> bool:
    """Whether a score has an exact derivative by a parameter of a method, under these arguments."""
    if parameter.kind != "number":
        return False
    if parameter.name == "lambda" and method.base == "subtracted":
        return True  # every method multiplies its whole change by it
    own = method.sparsify.parameters if method.sparsify else ()
    return are_sums(method, arguments) and parameter not in own


class _Slope(NamedTuple):
    """How a resolved parameter of a tensor follows a number of the space.

    Args:
        argument: of the method
        place: of the model, where each has its own value
        number: index in the space
        slope: change of the argument for each unit of the number
    """

    argument: str
    place: int | None
    number: int
    slope: float


class Derivatives:
    """Takes derivatives by the numbers of a space.

    Args:
        live: a merge whose recipe is one of the space
        space: the numbers

    Raises:
        MergeError: there is no derivative by one of them.
    """

    def __init__(self, live: LiveMerge, space: Coefficients):
        self.live = live
        self.space = space
        ends = zip(space.start, space.low, space.high, strict=True)
        self._ranges = [max(low - start, high - start, key=abs) for start, low, high in ends]
        # Inside the ranges: at their ends a plan may copy a tensor from a single model.
        self._inside = self._moved(space.start, BESIDE)
        self._plan = self._planned(self._inside)
        self._slopes = self._find_slopes()
        self._tensors = {
            tensor.name: tensor
            for tensor in self._plan.tensors
            if tensor.name in self._slopes and live.operands(self._plan, tensor) is not None
        }
        lacking = [name for name in self._tensors if live.weights(name) is None]
        if lacking:
            raise MergeError(Problem("no-derivative-of-tensors", {"tensors": few(sorted(lacking))}))

    def _moved(self, values: Sequence[float], share: float) -> list[float]:
        return [value + share * distance for value, distance in zip(values, self._ranges, strict=True)]

    def _planned(self, values: Sequence[float]) -> Plan:
        return self.live.planner.plan(self.space.recipe(values), files=False)

    def _find_slopes(self) -> Mapping[str, Sequence[_Slope]]:
        """By tensor. Resolved values follow the numbers in straight lines, so two plans show each slope."""
        found: dict[str, list[_Slope]] = defaultdict(list)
        beyond = self._moved(self._inside, BEYOND)
        for number, (before, after) in enumerate(zip(self._inside, beyond, strict=True)):
            plan = self._planned([*self._inside[:number], after, *self._inside[number + 1 :]])
            for old, new in zip(self._plan.tensors, plan.tensors, strict=True):
                found[old.name] += _slopes(plan, old, new, number, after - before)
        return {name: slopes for name, slopes in found.items() if slopes}

    def at(self, values: Sequence[float], objectives: Sequence[TextObjective]) -> Loss:
        """The score and its derivatives at a point; the live merge is updated to it.

        Raises:
            PlanError: there is no such merge.
            EvaluationError: the model cannot be scored.
        """
        self.live.update(self.space.recipe(values))
        gradient = np.zeros(len(values))
        tensors = {self.live.weights(name): tensor for name, tensor in self._tensors.items()}

        @torch.no_grad()
        def take(weights: Weights) -> None:
            assert weights.grad is not None
            self._add(gradient, values, tensors[weights], weights.grad.float().reshape(-1))
            weights.grad = None

        with hooked([weights for weights in tensors if weights is not None], take):
            whole = sum(objective.weight for objective in objectives)
            scores = tuple(
                _passed(self.live, objective, objective.weight / whole) for objective in objectives
            )
        value = sum(o.weight * s for o, s in zip(objectives, scores, strict=True)) / whole
        return Loss(value, scores, gradient)

    def _add(
        self, total: NDArray[np.float64], values: Sequence[float], tensor: PlannedTensor, gradient: Tensor
    ) -> None:
        """Add the part of one tensor, whose gradient is (n,) float32, to the derivatives by the numbers."""
        operands = self.live.operands(self._plan, tensor)
        if operands is None:
            return
        dots = operands.dots(gradient, self.live.buffers)
        arguments = self._arguments(values, tensor)
        for slope in self._slopes[tensor.name]:
            by_argument = _differentiated(operands.factors, arguments, slope)
            total[slope.number] += slope.slope * float(dots @ by_argument)

    def _arguments(self, values: Sequence[float], tensor: PlannedTensor) -> dict[str, Any]:
        """The method's arguments for a tensor at a point."""
        method = METHODS[self._plan.method]
        arguments: dict[str, Any] = {p.argument: tensor.parameters[p.name] for p in method.parameters}
        for slope in self._slopes[tensor.name]:
            distance = slope.slope * (values[slope.number] - self._inside[slope.number])
            arguments = _with(arguments, slope, distance)
        return arguments


def score(live: LiveMerge, objectives: Sequence[TextObjective]) -> float:
    """The weighted mean of objectives, in bits per byte, without derivatives."""
    with torch.no_grad():
        scores = [objective.weight * _passed(live, objective, 1.0) for objective in objectives]
    return sum(scores) / sum(objective.weight for objective in objectives)


def _passed(live: LiveMerge, objective: TextObjective, share: float) -> float:
    """Bits per byte of one objective; its share of the gradient arrives at the hooks."""
    model = live.model
    work = ScoringPlan.planned(model, objective.texts, None, None, None, BATCH_TOKENS.get(model.device), None)
    unit = 1 / (math.log(2) * sum(work.documents[number].bytes for number in work.order))
    how = Logits.of(model)
    nats = 0.0
    for batch in work.batches:
        live.check()
        counts = [work.order.count(window.document) for window in batch]
        passages = [
            Passage(work.tokens_of(window).long().to(model.device), window.scored, count * share * unit)
            for window, count in zip(batch, counts, strict=True)
        ]
        with memory_named(model.name, "doing-scoring"):
            found = backward(model, objective.teacher, passages, how)
        nats += sum(count * own for count, own in zip(counts, found, strict=True))
    return nats * unit


def _slopes(
    plan: Plan, before: PlannedTensor, after: PlannedTensor, number: int, distance: float
) -> Iterator[_Slope]:
    """The slopes of a tensor's parameters between two plans that differ in one number."""
    method = METHODS[plan.method]
    arguments = {p.argument: after.parameters.get(p.name) for p in method.parameters}
    for parameter in method.parameters:
        pair = before.parameters.get(parameter.name), after.parameters.get(parameter.name)
        if pair[0] == pair[1]:
            continue
        if not has_derivative(method, parameter, arguments):
            raise MergeError(Problem("no-derivative", {"method": method.name, "parameter": parameter.name}))
        for place, (old, new) in enumerate(zip(*map(_as_list, pair), strict=True)):
            if old != new:
                where = place if parameter.per_model else None
                yield _Slope(parameter.argument, where, number, (new - old) / distance)


def _as_list(value: Value) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _with(arguments: Mapping[str, Any], slope: _Slope, distance: float) -> dict[str, Any]:
    """The arguments with the one of a slope moved."""
    moved = list(_as_list(arguments[slope.argument]))
    moved[slope.place or 0] += distance
    return {**arguments, slope.argument: moved[0] if slope.place is None else moved}


def _differentiated(
    factors: Callable[[Mapping[str, Any]], Sequence[float]], arguments: Mapping[str, Any], slope: _Slope
) -> NDArray[np.float64]:
    """The derivatives of the coefficients by one argument, by central differences of the method's formula."""
    up, down = (np.asarray(factors(_with(arguments, slope, step)), np.float64) for step in (STEP, -STEP))
    found: NDArray[np.float64] = (up - down) / (2 * STEP)
    return found


@contextmanager
def hooked(weights: Sequence[Weights], take: Callable[[Weights], None]) -> Iterator[None]:
    """Call a function with each of these weights when its gradient is there; no gradient lives longer."""
    handles = []
    try:
        for one in weights:
            one.requires_grad_(True)
            handles.append(one.register_post_accumulate_grad_hook(take))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for one in weights:
            one.requires_grad_(False)
            one.grad = None


class Passage(NamedTuple):
    """A text to predict.

    Args:
        ids: (n + 1,) int64 tokens
        scored: how many of the last ones count
        factor: of their nats in the value whose derivatives are taken
    """

    ids: Tensor
    scored: int
    factor: float

    @property
    def targets(self) -> Tensor:
        """(scored,) int64"""
        return self.ids[len(self.ids) - self.scored :]


def backward(
    model: LanguageModel,
    teacher: LanguageModel | Predictions | None,
    passages: Sequence[Passage],
    how: Logits,
) -> list[float]:
    """Nats of passages that go through the model together, and one backward pass of their sum by factors.

    Args:
        teacher: see `TextObjective`
        passages: of similar length
        how: logits are made in little memory; those of a model without a plain head all at once
    """
    network = model.network
    width = max(len(one.ids) for one in passages) - 1
    # Padding is to the right, where a causal model cannot look.
    tokens = torch.stack([functional.pad(one.ids[:-1], (0, width + 1 - len(one.ids))) for one in passages])
    if how.plain_head:
        rows = network.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    else:
        rows = network(input_ids=tokens, use_cache=False).logits
    made = torch.cat(
        [row[len(p.ids) - 1 - p.scored : len(p.ids) - 1] for row, p in zip(rows, passages, strict=True)]
    )
    targets = torch.cat([one.targets for one in passages])
    factors = torch.cat([made.new_full((one.scored,), one.factor, dtype=torch.float32) for one in passages])
    predicted = None if teacher is None else _predictions(teacher, passages)
    # The gradient by these rows is summed here first, so that few logits live at a time.
    leaf = made.detach().requires_grad_(made.requires_grad)
    nats = []
    for start in range(0, len(leaf), how.at_once):
        part = slice(start, start + how.at_once)
        logits = network.get_output_embeddings()(leaf[part]) if how.plain_head else leaf[part]
        found = _nats(logits, targets[part], None if predicted is None else predicted(part))
        if found.requires_grad:
            (found * factors[part]).sum().backward()  # type: ignore[no-untyped-call]
        nats.append(found.detach())
    if made.requires_grad:
        made.backward(leaf.grad)  # type: ignore[no-untyped-call]
    each = torch.split(torch.cat(nats), [one.scored for one in passages])
    return [own.sum(dtype=torch.float64).item() for own in each]


def _nats(logits: Tensor, targets: Tensor, predicted: Tensor | None) -> Tensor:
    """(n,) negative log-likelihoods of (n,) targets under (n, vocabulary) logits; or divergences from predictions."""
    if predicted is None:
        return functional.cross_entropy(logits.float(), targets, reduction="none")
    found = functional.log_softmax(logits.float(), dim=-1)
    return functional.kl_div(found, predicted, reduction="none", log_target=True).sum(-1)


@torch.no_grad()
def _predictions(
    teacher: LanguageModel | Predictions, passages: Sequence[Passage]
) -> Callable[[slice], Tensor]:
    """The (m, vocabulary) log-probabilities at any m of all scored tokens of passages."""
    of_each = [_predictions_of(teacher, one) for one in passages]
    ends = list(accumulate(one.scored for one in passages))

    def of(part: slice) -> Tensor:
        found = []
        for predicted, end, one in zip(of_each, ends, passages, strict=True):
            begin = end - one.scored
            first, last = max(part.start, begin), min(part.stop, end)
            if first < last:
                found.append(predicted(slice(first - begin, last - begin)))
        return torch.cat(found)

    return of


def _predictions_of(teacher: LanguageModel | Predictions, passage: Passage) -> Callable[[slice], Tensor]:
    """A teacher's log-probabilities, see `Predictions`."""
    ids, scored, _ = passage
    if not isinstance(teacher, LanguageModel):
        return teacher.predictions(ids, scored)
    logits = teacher.network(input_ids=ids[None, :-1].to(teacher.device), use_cache=False).logits[0, -scored:]
    found: Tensor = functional.log_softmax(logits.float(), dim=-1).to(ids.device)
    return found.__getitem__

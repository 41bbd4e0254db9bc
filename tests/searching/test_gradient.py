"""Derivatives by the numbers of a recipe are those that central differences of the score show."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from checkpoints.problems import MergeError
from evaluation import load_model, perplexity
from evaluation.perplexity import Logits
from merging import METHODS, Recipe, read_recipe
from merging.methods.arithmetic import weighted_sum
from searching.gradient import BATCH_TOKENS, Derivatives, TextObjective, has_derivative, score
from searching.learning import Pace, learn
from searching.live_merge import LiveMerge
from tests.merging.methods.whole import merge_by_engine
from tests.tiny import save_tokenizer, tiny_llama

TEXTS = ("A merge of two models is a model.", "Two 모델", "The author stopped early.")
DISTANCE = 1e-3


@dataclass(frozen=True)
class Numbers:
    """A space for tests: a function makes the recipe of its numbers."""

    make: Callable[[Sequence[float]], dict[str, Any]]
    start: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def recipe(self, values: Sequence[float]) -> Recipe:
        return read_recipe(yaml.safe_dump({**self.make(list(map(float, values))), "dtype": "float32"}))


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `a` and `b` in float32; all share embeddings and head."""
    folder = tmp_path_factory.mktemp("float32")
    settings: dict[str, Any] = {"dtype": torch.float32, "vocab_size": 258, "initializer_range": 0.08}
    base = save_tokenizer(tiny_llama(folder / "base", 0, **settings))
    for seed, name in enumerate("ab", 1):
        save_tokenizer(tiny_llama(folder / name, seed, base, step=0.04, **settings))
    return folder


def of_two(folder: Path, method: str, first: Any, second: Any, **parameters: Any) -> dict[str, Any]:
    """A recipe with a weight for each fine-tune."""
    own = {"density": 0.5} if METHODS[method].sparsify else {}
    models = [
        {"model": str(folder / name), "parameters": {"weight": weight, **own}}
        for name, weight in zip("ab", (first, second), strict=True)
    ]
    recipe = {"merge_method": method, "models": models, "parameters": parameters}
    return recipe if METHODS[method].base != "subtracted" else {**recipe, "base_model": str(folder / "base")}


def spaces(folder: Path) -> dict[str, Numbers]:
    """Of every kind of method, and by model, layer and filter."""

    def weights(method: str, **parameters: Any) -> Numbers:
        def make(values: Sequence[float]) -> dict[str, Any]:
            return of_two(folder, method, *values, **parameters)

        return Numbers(make, (0.4, 0.7), (0.0, 0.0), (1.2, 1.2))

    def factor(method: str, **parameters: Any) -> Numbers:
        def make(values: Sequence[float]) -> dict[str, Any]:
            changes = {"lambda": values[0], **parameters}
            if method in ("ties", "dare_ties"):
                return of_two(folder, method, 0.6, 0.8, **changes)
            models = [{"model": str(folder / name)} for name in "ab"]
            base = str(folder / "base")
            return {"merge_method": method, "base_model": base, "models": models, "parameters": changes}

        return Numbers(make, (0.8,), (0.0,), (1.5,))

    def by_layer(values: Sequence[float]) -> dict[str, Any]:
        return of_two(
            folder, "task_arithmetic", values[:4], [{"filter": "mlp", "value": values[4]}, {"value": 0.3}]
        )

    def slerp(values: Sequence[float]) -> dict[str, Any]:
        models = [{"model": str(folder / name)} for name in "ab"]
        t = [{"filter": "self_attn", "value": values[:2]}, {"value": values[2]}]
        return {
            "merge_method": "slerp",
            "base_model": models[0]["model"],
            "models": models,
            "parameters": {"t": t},
        }

    def chat(values: Sequence[float]) -> dict[str, Any]:
        models = [{"model": str(folder / name)} for name in "ab"]
        parameters = {"weight": values[0], "everywhere": True}
        base = str(folder / "base")
        return {"merge_method": "chat_vector", "base_model": base, "models": models, "parameters": parameters}

    return {
        "linear": weights("linear"),
        "linear, as they are": weights("linear", normalize=False),
        "task_arithmetic": weights("task_arithmetic"),
        "task_arithmetic, normalized": weights("task_arithmetic", normalize=True),
        "dare_linear": weights("dare_linear"),
        "breadcrumbs": weights("breadcrumbs"),
        "della_linear": weights("della_linear"),
        "nuslerp": weights("nuslerp"),
        "multislerp": weights("multislerp"),
        "ties, lambda": factor("ties"),
        "dare_ties, lambda": factor("dare_ties"),
        "tsv_merge, lambda": factor("tsv_merge"),
        "iso_c, lambda": factor("iso_c"),
        "consensus_ta, lambda": factor("consensus_ta"),
        "by layer and filter": Numbers(by_layer, (0.2, 0.5, 0.6, 0.1, 0.4), (0.0,) * 5, (1.0,) * 5),
        "slerp": Numbers(slerp, (0.3, 0.6, 0.5), (0.0,) * 3, (1.0,) * 3),
        "chat_vector": Numbers(chat, (0.6,), (0.0,), (1.2,)),
        "from an end": Numbers(spaces_at_zero(folder), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0)),
    }


def spaces_at_zero(folder: Path) -> Callable[[Sequence[float]], dict[str, Any]]:
    """Where all weights are 0 the plan copies the base, and still there are derivatives."""
    return lambda values: of_two(folder, "task_arithmetic", *values)


NAMES = tuple(spaces(Path()))


def differences(live: LiveMerge, space: Numbers, objectives: Sequence[TextObjective]) -> list[float]:
    """Central differences of the score at the start, in float64, past the ends of the ranges as well."""

    def at(number: int, distance: float) -> float:
        values = [*space.start]
        values[number] += distance
        live.update(space.recipe(values))
        return in_float64(live, objectives)

    return [(at(n, DISTANCE) - at(n, -DISTANCE)) / (2 * DISTANCE) for n in range(len(space.start))]


def in_float64(live: LiveMerge, objectives: Sequence[TextObjective]) -> float:
    """The score of texts that begin with a letter: all of it but the first token counts."""
    network, scores = copy.deepcopy(live.model.network).double(), []
    with torch.no_grad():
        for objective in objectives:
            nats = size = 0.0
            for text in objective.texts:
                ids = torch.tensor([live.model.tokenizer(text)["input_ids"]])
                found = network(ids).logits[0, :-1].log_softmax(-1)
                size += len(text.encode()) - 1
                if objective.teacher is None:
                    nats -= found.gather(1, ids[0, 1:, None]).sum().item()
                else:
                    wanted = (
                        copy.deepcopy(objective.teacher.network).double()(ids).logits[0, :-1].log_softmax(-1)
                    )
                    nats += (wanted.exp() * (wanted - found)).sum().item()
            scores.append(objective.weight * nats / size / math.log(2))
    return sum(scores) / sum(objective.weight for objective in objectives)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_central_differences(name: str, float32: Path) -> None:
    space = spaces(float32)[name]
    objectives = [TextObjective(TEXTS[:2]), TextObjective(TEXTS[2:], weight=2)]

    with LiveMerge(space.recipe(space.start)) as live:
        loss = Derivatives(live, space).at(space.start, objectives)

        assert loss.value == pytest.approx(score(live, objectives), rel=1e-5)
        assert loss.value == pytest.approx(in_float64(live, objectives), rel=1e-5)
        scores = [perplexity(live.model, o.texts).bits_per_byte for o in objectives]
        assert loss.by_objective == pytest.approx(scores, rel=1e-5)
        expected = differences(live, space, objectives)
        largest = max(map(abs, expected))
        assert loss.gradient.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3 * max(largest, 0.1))
        assert largest > 0.01
        assert not any(parameter.requires_grad for parameter in live.model.network.parameters())
        assert all(parameter.grad is None for parameter in live.model.network.parameters())


def test_the_target_may_be_what_a_parent_predicts(float32: Path) -> None:
    space = spaces(float32)["task_arithmetic"]
    teachers = [load_model(float32 / name) for name in "ab"]
    objectives = [
        TextObjective(TEXTS[:1], teacher=teachers[0]),
        TextObjective(TEXTS[1:], teacher=teachers[1]),
    ]

    with LiveMerge(space.recipe(space.start)) as live:
        loss = Derivatives(live, space).at(space.start, objectives)

        assert loss.gradient.tolist() == pytest.approx(
            differences(live, space, objectives), rel=1e-3, abs=1e-4
        )
        live.update(space.recipe((1.0, 0.0)))  # the first parent itself, but for rounding
        assert score(live, objectives[:1]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("taught", [False, True])
def test_texts_that_go_through_the_model_together_count_as_each_alone(
    float32: Path, taught: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where logits are made for a few tokens at a time, across the ends of texts."""
    space = spaces(float32)["task_arithmetic"]
    objective = TextObjective(TEXTS, teacher=load_model(float32 / "a") if taught else None)

    with LiveMerge(space.recipe(space.start)) as live:
        derivatives = Derivatives(live, space)
        found = [derivatives.at(space.start, [objective])]
        for how in (Logits(True, 5), Logits(False, 7)):
            monkeypatch.setattr("searching.gradient.Logits.of", lambda _, how=how: how)
            found.append(derivatives.at(space.start, [objective]))
        monkeypatch.undo()
        monkeypatch.setitem(BATCH_TOKENS, "cpu", 1)  # as a GPU has fewer than for a score
        alone = derivatives.at(space.start, [objective])

    for together in found:
        assert together.value == pytest.approx(alone.value, rel=1e-5)
        assert together.gradient == pytest.approx(alone.gradient, rel=1e-4)


def test_there_is_no_derivative_by_a_density(float32: Path) -> None:
    def make(values: Sequence[float]) -> dict[str, Any]:
        recipe = of_two(float32, "ties", 0.5, 0.5)
        recipe["models"][0]["parameters"]["density"] = values[0]
        return recipe

    space = Numbers(make, (0.5,), (0.1,), (0.9,))

    with (
        LiveMerge(space.recipe(space.start)) as live,
        pytest.raises(MergeError, match="no derivative by 'density'"),
    ):
        Derivatives(live, space)


@pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.parameter("lambda")], ids=lambda m: m.name
)
def test_lambda_multiplies_the_whole_change(method: Any) -> None:
    """Of every method that has it: derivatives rely on it."""
    parameter = method.parameter("lambda")
    models = [torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    arguments = {p.argument: p.default for p in method.parameters if not p.per_model}
    arguments |= {
        p.argument: [0.5, 0.7] if p.default is None else [p.default] * 2
        for p in method.parameters
        if p.per_model
    }
    merged = [
        merge_by_engine(method, models, {**arguments, "lambda_": factor}) - models[0]
        for factor in (1.0, 0.25)
    ]

    assert has_derivative(method, parameter, arguments)
    assert merged[0].abs().max() > 0.1
    assert torch.allclose(merged[0] * 0.25, merged[1], atol=1e-5)


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.coefficients], ids=lambda m: m.name)
def test_declared_coefficients_are_those_of_the_function(method: Any) -> None:
    blocks = [torch.randn(40, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)][
        : method.max_models
    ]
    own = {
        p.argument: p.default
        for p in method.parameters
        if method.sparsify is None or p not in method.sparsify.parameters
    }
    own |= {
        p.argument: [0.3, 0.9][: len(blocks)] for p in method.parameters if p.per_model and p.argument in own
    }
    own |= {p.argument: True for p in method.parameters if p.roles}

    merged = method.function([block.clone() for block in blocks], **own)

    assert torch.equal(merged, weighted_sum([block.clone() for block in blocks], method.coefficients(own)))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_planted_optimum_is_found_inside_the_bounds(optimizer: Any, float32: Path) -> None:
    """Its text is what the first parent predicts: the best weights are 1 and 0."""
    space = spaces(float32)["task_arithmetic"]
    target = [TextObjective(TEXTS, teacher=load_model(float32 / "a"))]
    seen = []

    with LiveMerge(space.recipe(space.start)) as live:
        pace = Pace(optimizer, steps=25, patience=25, pull=0)
        learnt = learn(live, space, target, target, pace, on_step=seen.append)

        assert learnt.values == pytest.approx((1.0, 0.0), abs=0.05)
        assert learnt.steps == tuple(seen)
        assert live.recipe == learnt.recipe == space.recipe(learnt.values)
        assert score(live, target) == pytest.approx(min(step.choice or 0 for step in seen), abs=1e-6)
    assert all(0 <= value <= 1.2 for step in seen for value in step.values)


def test_it_stops_when_the_choice_texts_get_worse(float32: Path) -> None:
    """The search texts pull to one parent, and the choice texts to the other."""
    space = spaces(float32)["task_arithmetic"]
    one, other = ([TextObjective(TEXTS, teacher=load_model(float32 / name))] for name in "ab")

    with LiveMerge(space.recipe((0.5, 0.5))) as live:
        learnt = learn(live, space, one, other, Pace(patience=2, steps=20))

    assert learnt.stopped == "choice"
    assert len(learnt.steps) == 3 + [step.values for step in learnt.steps].index(learnt.values)
    assert learnt.steps[-1].search < learnt.steps[0].search


def test_the_pull_keeps_numbers_near_the_start(float32: Path) -> None:
    space = spaces(float32)["task_arithmetic"]
    target = [TextObjective(TEXTS, teacher=load_model(float32 / "a"))]

    with LiveMerge(space.recipe(space.start)) as live:
        free, pulled = (learn(live, space, target, pace=Pace(pull=pull)).values for pull in (0.0, 20.0))

    assert np.abs(np.subtract(pulled, space.start)).max() < np.abs(np.subtract(free, space.start)).max() / 2


def test_a_cancelled_run_keeps_its_best_step(float32: Path) -> None:
    space = spaces(float32)["task_arithmetic"]
    cancel = threading.Event()

    with LiveMerge(space.recipe(space.start), cancel=cancel) as live:
        learnt = learn(
            live, space, [TextObjective(TEXTS)], on_step=lambda step: cancel.set() if step.number else None
        )

    assert learnt.stopped == "cancelled"
    assert len(learnt.steps) == 2

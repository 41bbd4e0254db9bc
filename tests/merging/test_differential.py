"""Drawn recipes, run by mergekit 0.1.5 and by us: every tensor agrees, but for the differences that the README lists.

`make test` draws a few dozen, `make differential` several hundred.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mergekit.merge_methods import merge_tensors, registered_methods

from merging import METHODS, MergeMethod, Parameter, Plan, make_plan, read_recipe, run_plan
from merging.plan import PlannedTensor
from tests.merging.methods.whole import merge_by_engine
from tests.merging.test_against_mergekit import chosen_among_equals, mergekit, one_tensor, tensors
from tests.tiny import tiny_llama

pytestmark = pytest.mark.oracle

LAYERS = 4
MODELS = "abcd"
# One row and one column, lengths that fill no block, and few entries: what a real model does not have, and a
# recipe meets all the same.
ODD = {
    "vocab_size": 11,
    "hidden_size": 6,
    "intermediate_size": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "num_hidden_layers": LAYERS,
}
USUAL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS}
STORED = ("bfloat16", "float16", "float32")
# Of two neighbours, the distance over the size.
STEPS = {"bfloat16": 2**-7, "float16": 2**-10, "float32": 1e-6}
FILTERS = ("self_attn", "mlp", "norm", "embed", "layers.1.", "up_proj", "lm_head", "*", "nothing like it")
THEIRS = {method.spec.name for method in registered_methods()}
COMPARED = [method for method in METHODS.values() if method.name in THEIRS]
# Arguments of ours that mergekit does not have are left at what mergekit does.
AS_MERGEKIT: dict[str, Any] = {"election": "weighted", "rescale_norm": "l1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for shape, config in {"odd": ODD, "usual": USUAL}.items():
        for tied in (False, True):
            for dtype in STORED:
                place = folder / f"{shape}-{'tied' if tied else 'untied'}-{dtype}"
                more = {**config, "tie_word_embeddings": tied, "dtype": getattr(torch, dtype)}
                base = tiny_llama(place / "base", 0, **more)
                for seed, name in enumerate(MODELS, 1):
                    tiny_llama(place / name, seed, base, **more)
    return folder


def scalars(parameter: Parameter) -> st.SearchStrategy[Any]:
    if parameter.kind == "bool":
        return st.booleans()
    if parameter.kind == "choice":
        return st.sampled_from(parameter.choices)
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.kind == "integer":
        return st.integers(int(parameter.low), int(parameter.high))
    # A weight or a density of nearly nothing is where both divide by nearly nothing.
    least = parameter.low + 0.1 * (parameter.high - parameter.low)
    return st.floats(least, parameter.high).map(lambda value: round(value, 3 if parameter.high >= 1 else 8))


def by_filter(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Choices by the tensor's name, which leave some tensors to other levels; a single one without a list too."""
    choice = st.builds(lambda text, value: {"filter": text, "value": value}, st.sampled_from(FILTERS), one)
    return choice | st.lists(choice, min_size=1, max_size=2)


def values(
    parameter: Parameter, *, is_random: bool, signed: bool
) -> tuple[st.SearchStrategy[Any], st.SearchStrategy[Any]]:
    """What a recipe may say: for some tensors, and for all of them (a value, a gradient, filters with a last one).

    Args:
        is_random: the method draws: what it keeps of a density between 0 and 1 is for a test of its own
        signed: weights may be negative; they are then such that sums of zero are exact
    """
    one = scalars(parameter)
    if is_random and parameter.name == "density":
        one = st.sampled_from([0.0, 1.0])
    elif signed and parameter.name == "weight":
        one = st.integers(-8, 16).map(lambda eighths: eighths / 8)
    elif parameter.kind in ("bool", "number"):  # mergekit refuses a gradient over whole numbers
        one |= st.lists(one, min_size=1, max_size=4)
    some = by_filter(one)
    last = st.builds(
        lambda first, value: [*(first if isinstance(first, list) else [first]), {"value": value}], some, one
    )
    return some, one | last


@st.composite
def recipes(draw: st.DrawFn, method: MergeMethod) -> dict[str, Any]:
    """A recipe over models named `base`, `a`, `b`, ..., without dtypes."""
    subtracts = method.base == "subtracted" or (method.base == "optional" and draw(st.booleans()))
    most = method.max_models or len(MODELS) - subtracts
    number = draw(st.integers(min(max(method.min_models, 1), most), most))
    recipe: dict[str, Any] = {"merge_method": method.name}
    first = draw(st.permutations(MODELS))[:number]
    if subtracts:
        recipe["base_model"] = "base"
    elif method.base == "first" or (method.base == "ordinary" and draw(st.booleans())):
        recipe["base_model"] = draw(st.sampled_from(first))
    sliced, signed = draw(st.booleans()), draw(st.booleans())
    # Each parameter has a value for all tensors at one level, and at those above it for some.
    levels = ["recipe", "slice", "source"] if sliced else ["recipe", "source"]
    said: dict[str, dict[str, st.SearchStrategy[Any]]] = {level: {} for level in levels}
    for parameter in method.parameters:
        if parameter.name in AS_MERGEKIT:
            said["recipe"][parameter.name] = st.just(AS_MERGEKIT[parameter.name])
        elif parameter.required or draw(st.booleans()):
            some, whole = values(parameter, is_random=method.is_random, signed=signed)
            own = levels if parameter.per_model else [level for level in levels if level != "source"]
            lowest = draw(st.integers(0, len(own) - 1))
            said[own[lowest]][parameter.name] = whole
            for level in own[lowest + 1 :]:
                if draw(st.booleans()):
                    said[level][parameter.name] = some

    def parameters(level: str) -> dict[str, Any]:
        drawn = {name: draw(setting) for name, setting in said[level].items()}
        return {"parameters": drawn} if drawn else {}

    recipe |= parameters("recipe")
    base = recipe.get("base_model")
    if not sliced:
        # An unlisted base model takes part as if it were listed last.
        listed = draw(st.booleans()) or method.base == "ordinary"
        recipe["models"] = [
            {"model": name, **parameters("source")} for name in first if listed or name != base
        ]
        if subtracts and listed:
            recipe["models"].insert(draw(st.integers(0, number)), {"model": base})
        assume(recipe["models"])
        return recipe
    recipe["slices"] = []
    for index in range(draw(st.integers(1, 3))):
        names = draw(st.permutations(MODELS))[:number] if index else first
        part: dict[str, Any] = parameters("slice")
        own_base = base
        if method.takes_base and base and draw(st.booleans()):
            others = ["base", *(name for name in MODELS if name not in names)]
            own_base = part["base_model"] = draw(st.sampled_from(others if subtracts else names))
        elif method.base == "first" and base not in names:
            names = [base, *names[1:]]
        sources = [{"model": name, **parameters("source")} for name in names]
        if subtracts:
            sources.insert(draw(st.integers(0, number)), {"model": own_base})
        # A slice without layers says where the tensors before or after the layers come from.
        length = draw(st.integers(int(index == 0), 3))
        for source in sources:
            start = draw(st.integers(0, LAYERS - length))
            source["layer_range"] = [start, start + length]
        recipe["slices"].append({"sources": sources, **part})
    return recipe


def on_folders(recipe: dict[str, Any], places: dict[str, Path]) -> dict[str, Any]:
    """The recipe with the folders of its models."""
    text = yaml.safe_dump(recipe)
    for name, place in places.items():
        text = text.replace(f"model: {name}\n", f"model: {place / name}\n")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def votes_cancel(votes: Sequence[torch.Tensor], nearly: float) -> torch.Tensor:
    """Where some of the votes add up to nothing, or nearly, so that rounding or chance elects the sign."""
    cancel = torch.zeros(votes[0].shape, dtype=torch.bool)
    for number in range(2, len(votes) + 1):
        for some in combinations(votes, number):
            size = torch.stack(some).abs().sum(dim=0)
            cancel |= (torch.stack(some).sum(dim=0).abs() <= nearly * size) & (size > 0)
    return cancel


def election_is_open(tensor: PlannedTensor, plan: Plan) -> torch.Tensor:
    """Where the changes of some models cancel: in 16 bits these are few steps, and their sums often zero."""
    base, *models = (
        one_tensor(Path(plan.models[part.model].name), part.tensor).double() for part in tensor.inputs
    )
    weights = tensor.parameters.get("weight", [1.0] * len(models))
    assert isinstance(weights, list)
    return votes_cancel([w * (model - base) for w, model in zip(weights, models, strict=True)], 1e-5)


def at_the_limit_of_importance(tensor: PlannedTensor, plan: Plan) -> torch.Tensor:
    """Where Arcee Fusion's importance is the limit but for rounding, so that an entry may go either way.

    In 16 bits many entries of a norm changed by the same steps, and the limit is a sum of such steps.
    """
    base, model = (
        one_tensor(Path(plan.models[part.model].name), part.tensor).double() for part in tensor.inputs
    )
    before, after = (weights.softmax(dim=-1) + 1e-8 for weights in (base, model))
    importance = (model - base).abs() * (after * (after / before).log()).sum(dim=-1, keepdim=True)
    ordered = importance.flatten().sort().values
    first, middle, third = (ordered[int(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75))
    limit = middle + 1.5 * (third - first)
    return (importance - limit).abs() <= 1e-5 * limit


@pytest.mark.parametrize("method", COMPARED, ids=lambda method: method.name)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_drawn_recipe(method: MergeMethod, folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    drawn = data.draw(recipes(method), label="recipe")
    # mergekit's Model Stock takes a product of two norms below 1e-6 for 1e-6, which bends the angle of tiny rows.
    shapes = ["usual"] if method.name == "model_stock" else ["odd", "usual"]
    shape = data.draw(st.sampled_from(shapes), label="shape")
    tied = data.draw(st.sampled_from(["tied", "untied"]), label="head")
    # In 16 bits many entries differ by the same step, and which of these equals SCE keeps is left to a sort there.
    stored = ["float32"] if method.name == "sce" else STORED
    dtypes = {name: data.draw(st.sampled_from(stored), label=f"{name} is") for name in ("base", MODELS)}
    wanted = data.draw(st.sampled_from(STORED), label="written as")
    places = {
        name: folder / f"{shape}-{tied}-{dtypes['base' if name == 'base' else MODELS]}"
        for name in ("base", *MODELS)
    }
    recipe = on_folders(drawn, places) | {"out_dtype": wanted}
    for name in ("ours", "theirs"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)

    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(tmp_path / "ours"))
    # Weights that cancel, and slices without layers before the last one.
    assume(not {"parameters", "empty-slice"} & {problem.code for problem in plan.problems})
    assert plan.problems == ()
    run_plan(plan, str(tmp_path / "ours"), workers=1)
    # In float64, so that where its own rounding would count (directions that nearly cancel) it says what is right.
    try:
        mergekit({**recipe, "dtype": "float64"}, tmp_path / "theirs")
    except ValueError as error:  # Multi-SLERP of three models that cancel, which we add up
        assume("weighted sum of the input tensors is zero" not in str(error))
        raise

    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for tensor in plan.tensors:
        merged, expected = ours[tensor.name], theirs[tensor.name]
        assert merged.dtype == expected.dtype == getattr(torch, wanted)
        sure = ~chosen_among_equals(tensor, plan)
        if method.name == "arcee_fusion" and not tensor.is_one_input:
            sure &= ~at_the_limit_of_importance(tensor, plan)
        if "election" in tensor.parameters:
            sure &= ~election_is_open(tensor, plan)
        if tensor.is_one_input:
            assert torch.equal(merged, expected), tensor.name
            continue
        # Where terms cancel, a sum is as exact as its terms are large.
        largest = expected.abs().max().item()
        torch.testing.assert_close(
            merged.float()[sure],
            expected.float()[sure],
            rtol=STEPS[wanted],
            atol=2e-6 * max(largest, 0.1),
            msg=lambda text, name=tensor.name: f"{name}: {text}",  # type: ignore[misc]
        )


# Magnitudes apart enough that nobody takes two of them for equal ranks.
MAGNITUDES = (0.1, 0.4, 0.7, 1.5, 3.0, 6.0)
ROWS = 20_000


@st.composite
def chances(draw: st.DrawFn, method: MergeMethod, models: int) -> dict[str, Any]:
    """Arguments of a method that draws, by its parameters' names."""
    given: dict[str, Any] = dict(AS_MERGEKIT)
    for parameter in method.parameters:
        if parameter.name in AS_MERGEKIT:
            continue
        one = scalars(parameter)
        if parameter.name == "density":
            one = st.floats(0.1, 0.9)
        elif parameter.name == "weight":
            one = st.sampled_from([0.25, 0.5, 1.0, 1.5])
        elif parameter.name == "epsilon":
            reach = [min(density, 1 - density) for density in given["density"]]
            given["epsilon"] = [draw(st.floats(0.0, 0.95)) * most for most in reach]
            continue
        given[parameter.name] = [draw(one) for _ in range(models)] if parameter.per_model else draw(one)
    return given


def chances_of(row: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """How probably each entry of a row stays."""
    ranks = row.abs().argsort().argsort().double()
    return density - epsilon + 2 * epsilon * ranks / (len(row) - 1)


@pytest.mark.parametrize("method", [m for m in COMPARED if m.is_random], ids=lambda method: method.name)
@settings(deadline=None)
@given(data=st.data())
def test_methods_that_draw_keep_as_much_and_expect_the_same(method: MergeMethod, data: st.DataObject) -> None:
    """Each column of a matrix of equal rows is twenty thousand draws of one entry."""
    models = data.draw(st.integers(1, 3), label="models")
    signed = st.permutations([s * m for s, m in zip((1, -1, 1, 1, -1, -1), MAGNITUDES, strict=True)])
    changes = [torch.tensor(data.draw(signed, label=f"model {i}")).repeat(ROWS, 1) for i in range(models)]
    given = data.draw(chances(method, models), label="arguments")
    torch.manual_seed(0)
    known = {name: value for name, value in given.items() if name not in AS_MERGEKIT}
    theirs = merge_tensors([0 * changes[0], *changes], method.name, parameters=known, base_index=0)

    arguments = {p.argument: given[p.name] for p in method.parameters}
    ours = merge_by_engine(method, [0 * changes[0], *changes], arguments)

    sure = torch.ones(len(MAGNITUDES), dtype=torch.bool)
    if "election" in given and models > 1:
        votes = [change[0].double() * w for change, w in zip(changes, given["weight"], strict=True)]
        factors = [1.0] * models
        if given["rescale"]:
            epsilons = given.get("epsilon", [0.0] * models)
            factors = [
                float(vote.abs().sum() / (vote.abs() * chances_of(vote, density, epsilon)).sum())
                for vote, density, epsilon in zip(votes, given["density"], epsilons, strict=True)
            ]
        sure = ~votes_cancel([vote * factor for vote, factor in zip(votes, factors, strict=True)], 0.04)
    ours, theirs = ours[:, sure], theirs[:, sure]

    # Six standard errors of a difference; a factor that keeps the sum of magnitudes has an error of its own.
    kept, wanted = ((merged.abs() > 1e-4).sum(dim=0) / ROWS for merged in (ours, theirs))
    torch.testing.assert_close(kept, wanted, rtol=0, atol=6 * (0.5 / ROWS) ** 0.5)
    spread = ((ours.var(dim=0) + theirs.var(dim=0)) / ROWS).sqrt()
    own = 0.05 * theirs.mean(dim=0).abs() if given["rescale"] else 0
    assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() <= 6 * spread + own + 1e-6).all()

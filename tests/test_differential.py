"""Drawn recipes, run by mergekit 0.1.5 and by us: every tensor agrees, but for the differences that the README lists.

`make test` draws a few dozen, `make differential` several hundred.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mergekit.merge_methods import registered_methods

from merging import METHODS, MergeMethod, Parameter, make_plan, read_recipe, run_plan
from tests.test_against_mergekit import chosen_among_equals, mergekit, tensors
from tests.tiny import tiny_llama

pytestmark = pytest.mark.oracle

LAYERS = 4
MODELS = "abc"
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
FILTERS = ("self_attn", "mlp", "norm", "embed", "layers.1.", "up_proj", "lm_head", "*", "nothing like it")
# Methods that draw at random are compared in tests of their own: in what they keep, and in what they expect.
THEIRS = {method.spec.name for method in registered_methods()}
COMPARED = [method for method in METHODS.values() if not method.is_random and method.name in THEIRS]
# Arguments of ours that mergekit does not have are left at what mergekit does.
AS_MERGEKIT: dict[str, Any] = {"election": "weighted"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for shape, config in {"odd": ODD, "usual": USUAL}.items():
        for tied in (False, True):
            for dtype in ("bfloat16", "float32"):
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


def values(parameter: Parameter) -> st.SearchStrategy[Any]:
    """A number, a gradient, or choices by filter with a last one for all."""
    one = scalars(parameter)
    gradient = st.lists(one, min_size=1, max_size=4)
    if parameter.kind != "number":
        return one  # mergekit refuses a gradient over whole numbers; steps between words are tested apart
    choice = st.builds(
        lambda text, value: {"filter": text, "value": value}, st.sampled_from(FILTERS), one | gradient
    )
    filtered = st.builds(
        lambda some, last: [*some, {"value": last}], st.lists(choice, min_size=1, max_size=2), one | gradient
    )
    return one | gradient | filtered


@st.composite
def recipes(draw: st.DrawFn, method: MergeMethod) -> dict[str, Any]:
    """A recipe over models named `base`, `a`, `b`, `c`, without dtypes."""
    most = min(method.max_models or 3, 3)
    least = min(max(method.min_models, 1), most)
    number = draw(st.integers(least, most))
    names = list(MODELS[:number])
    recipe: dict[str, Any] = {"merge_method": method.name}
    subtracts = method.base == "subtracted" or (method.base == "optional" and draw(st.booleans()))
    if subtracts:
        recipe["base_model"] = "base"
    elif method.base == "first":
        recipe["base_model"] = draw(st.sampled_from(names))
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    shared: dict[str, Any] = {}
    for parameter in method.parameters:
        if parameter.name in AS_MERGEKIT:
            shared[parameter.name] = AS_MERGEKIT[parameter.name]
        elif parameter.per_model:
            for name in names:
                own[name][parameter.name] = draw(values(parameter))
        elif parameter.required or draw(st.booleans()):
            shared[parameter.name] = draw(values(parameter))
    if shared:
        recipe["parameters"] = shared
    sources = [{"model": name, "parameters": own[name]} for name in names]
    if subtracts:
        sources.insert(draw(st.integers(0, len(sources))), {"model": "base"})
    if draw(st.booleans()):
        recipe["models"] = sources
        return recipe
    recipe["slices"] = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, 3))
        starts = [draw(st.integers(0, LAYERS - length)) for _ in sources]
        ranges = [
            {**source, "layer_range": [start, start + length]}
            for source, start in zip(sources, starts, strict=True)
        ]
        recipe["slices"].append({"sources": ranges})
    return recipe


def on_folders(recipe: dict[str, Any], place: Path) -> dict[str, Any]:
    """The recipe with the models of a folder."""
    text = yaml.safe_dump(recipe)
    for name in ("base", *MODELS):
        text = text.replace(f"model: {name}\n", f"model: {place / name}\n")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", COMPARED, ids=lambda method: method.name)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_drawn_recipe(method: MergeMethod, folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    drawn = data.draw(recipes(method), label="recipe")
    # mergekit's Model Stock takes a product of two norms below 1e-6 for 1e-6, which bends the angle of tiny rows.
    shapes = ["usual"] if method.name == "model_stock" else ["odd", "usual"]
    shape = data.draw(st.sampled_from(shapes), label="shape")
    tied = data.draw(st.sampled_from(["tied", "untied"]), label="head")
    # In bfloat16 many entries differ by the same step, and which of these equals SCE keeps is left to a sort there.
    stored = ["float32"] if method.name == "sce" else ["bfloat16", "float32"]
    dtype = data.draw(st.sampled_from(stored), label="stored as")
    wanted = data.draw(st.sampled_from(["bfloat16", "float32"]), label="written as")
    recipe = on_folders(drawn, folder / f"{shape}-{tied}-{dtype}")
    recipe |= {"dtype": "float32", "out_dtype": wanted}
    for name in ("ours", "theirs"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)

    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(tmp_path / "ours"))
    assert plan.problems == ()
    run_plan(plan, str(tmp_path / "ours"), workers=1)
    mergekit(recipe, tmp_path / "theirs")

    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for tensor in plan.tensors:
        merged, expected = ours[tensor.name], theirs[tensor.name]
        assert merged.dtype == expected.dtype == getattr(torch, wanted)
        sure = ~chosen_among_equals(tensor, plan)
        if method.name == "arcee_fusion":
            # An entry whose importance nearly equals the limit may go either way.
            differs = (merged.float() - expected.float()).abs() > 2**-6 * expected.float().abs() + 1e-5
            assert differs.sum() <= 1 + differs.numel() // 500
            sure &= ~differs
        if method.name == "passthrough":
            assert torch.equal(merged, expected), tensor.name
            continue
        # Where terms cancel, a sum is as exact as its terms are large.
        largest = expected.abs().max().item()
        step = {"bfloat16": 2**-7, "float32": 1e-6}[wanted]
        torch.testing.assert_close(
            merged.float()[sure],
            expected.float()[sure],
            rtol=step,
            atol=2e-6 * max(largest, 0.1),
            msg=lambda text, name=tensor.name: f"{name}: {text}",  # type: ignore[misc]
        )

"""What every method in the registry keeps, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.engine import workspace
from merging.methods import METHODS, MergeMethod, Parameter
from tests.merging.methods.whole import merge_by_engine, merge_whole

# A method that may have a base is two: with one, and without.
VARIANTS = METHODS | {
    f"{name} with a base": replace(method, base="subtracted")
    for name, method in METHODS.items()
    if method.base == "optional"
}
# Characters of a summary: a line of the page.
MAX_SUMMARY = 120
every_method = pytest.mark.parametrize("method", VARIANTS.values(), ids=list(VARIANTS))


def models_of(method: MergeMethod, limit: int = 3) -> int:
    """A number of inputs that the method takes, the base among them."""
    most = limit if method.max_models is None else method.max_models
    return max(method.min_models, most) + (method.base == "subtracted")


def value_of(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Anything the parameter's slider can be set to."""
    if parameter.kind == "bool":
        return st.booleans()
    if parameter.kind == "choice":
        return st.sampled_from(parameter.choices)
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.kind == "integer":
        return st.integers(int(parameter.low), int(parameter.high))
    return st.floats(parameter.low, parameter.high)


def arguments_of(method: MergeMethod) -> st.SearchStrategy[dict[str, Any]]:
    count = models_of(method) - (method.base == "subtracted")
    fields = {
        p.argument: st.lists(value_of(p), min_size=count, max_size=count) if p.per_model else value_of(p)
        for p in method.parameters
    }
    if "epsilon" in fields and "density" in fields:  # which of most values leave no chance between 0 and 1
        fields["epsilon"] = st.just([0.1] * count)
    return st.fixed_dictionaries(fields).filter(lambda arguments: method.check(arguments) is None)


def some_arguments(method: MergeMethod, number: float = 0.4) -> dict[str, Any]:
    """Defaults where there are some, else a number in between."""
    count = models_of(method) - (method.base == "subtracted")
    values: dict[str, Any] = {}
    for p in method.parameters:
        value = number if p.default is None else p.default
        values[p.argument] = [value] * count if p.per_model else value
    return values


def varied_arguments(method: MergeMethod) -> Iterator[dict[str, Any]]:
    """Some arguments with a density in between, and the same with each switch and choice at its other values."""
    arguments = some_arguments(method)
    if "density" in arguments:
        arguments["density"] = [0.3] * len(arguments["density"])
    yield arguments
    for p in method.parameters:
        others = [not p.default] if p.kind == "bool" else [c for c in p.choices if c != p.default]
        for value in others:
            yield arguments | {p.argument: value}
    switches = [p.argument for p in method.parameters if p.kind == "bool"]
    if len(switches) > 1:
        yield arguments | {name: not arguments[name] for name in switches}


def tensors_of(method: MergeMethod, *shape: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(shape, generator=generator)
    return [
        (base + 0.05 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(models_of(method))
    ]


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_the_formula_fits_a_line_of_the_page(method: MergeMethod) -> None:
    assert method.formula.startswith("θ = ")
    assert method.formula == " ".join(method.formula.split())
    assert len(method.formula) <= 170
    assert "`" not in method.formula  # tables quote it with these
    # What is taken off and put back, or is the first of two, appears.
    assert ("θ₀" in method.formula) or not method.needs_base
    letters = {"lambda": "λ", "density": "d", "epsilon": "ε", "weight": "w", "t": "t", "gamma": "γ"}
    approximate = {"density": "KeepLargest"}
    for parameter in method.parameters:
        said = letters.get(parameter.name)
        if said and approximate.get(parameter.name) != type(method.sparsify).__name__:
            assert said in method.formula, parameter.name


@every_method
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_finite_wherever_the_sliders_go(method: MergeMethod, data: st.DataObject) -> None:
    arguments = data.draw(arguments_of(method))

    merged = merge_by_engine(method, tensors_of(method, 6, 5), arguments)

    assert merged.shape == (6, 5)
    assert merged.isfinite().all()


@every_method
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_model_merged_with_itself_is_itself(method: MergeMethod, data: st.DataObject) -> None:
    arguments = data.draw(arguments_of(method))
    if method.name in ("linear", "passthrough", "multislerp"):
        arguments = some_arguments(method, 1.0)  # other weights are meant to scale
    for dtype in (torch.bfloat16, torch.float32):  # the second shows arithmetic in fewer bits
        tensor = tensors_of(method, 4, 3, dtype=dtype)[0]

        merged = merge_by_engine(method, [tensor] * models_of(method), arguments)

        torch.testing.assert_close(merged, tensor.float(), rtol=1e-5, atol=1e-6)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_engine_gives_the_bits_of_the_plain_formula(method: MergeMethod, dtype: torch.dtype) -> None:
    tensors = tensors_of(method, 70, 8000, dtype=dtype)  # more than two blocks, and a rest
    assert tensors[0].numel() > 2 * workspace.BLOCK

    for arguments in varied_arguments(method):
        merged = merge_by_engine(method, tensors, arguments)
        assert torch.equal(merged, merge_whole(method, tensors, arguments)), arguments


@every_method
def test_the_bits_do_not_depend_on_how_much_is_read_at_once(
    method: MergeMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = tensors_of(method, 70, 8000)
    for arguments in varied_arguments(method):
        by_block = merge_by_engine(method, tensors, arguments)
        for length in (4 * workspace.BLOCK, 2 * workspace.BLOCK):
            monkeypatch.setattr("merging.engine.blocks.SLICE", length)
            assert torch.equal(merge_by_engine(method, tensors, arguments, remote=True), by_block), arguments


@every_method
@pytest.mark.parametrize(
    "shape",
    [(), (1,), (7,), (5, 1), (1, 5), (3, 2, 4), (workspace.BLOCK + 3,), (3, workspace.BLOCK // 2 + 1)],
)
def test_tensors_of_any_shape(method: MergeMethod, shape: tuple[int, ...]) -> None:
    tensors = tensors_of(method, *shape, dtype=torch.float32)

    for arguments in varied_arguments(method):
        merged = merge_by_engine(method, tensors, arguments)
        assert merged.shape == shape
        assert torch.equal(merged, merge_whole(method, tensors, arguments)), arguments


# Of these the first model is another thing than the second, or each has random draws of its own.
ORDERED = ("slerp", "chat_vector", "arcee_fusion", "dare_linear", "dare_ties", "della", "della_linear")


@every_method
def test_the_order_of_the_models_does_not_matter(method: MergeMethod) -> None:
    if method.name in ORDERED:
        return
    tensors = tensors_of(method, 40, 30, dtype=torch.float32)
    start = int(method.base == "subtracted")
    order = list(reversed(range(len(tensors) - start)))

    for arguments in varied_arguments(method):
        for parameter in method.parameters:
            if parameter.per_model:
                arguments[parameter.argument] = [0.2 + 0.1 * i for i in range(len(order))]
        turned = {
            p.argument: [arguments[p.argument][i] for i in order] if p.per_model else arguments[p.argument]
            for p in method.parameters
        }
        merged = merge_by_engine(method, tensors, arguments)
        permuted = [*tensors[:start], *(tensors[start + i] for i in order)]
        torch.testing.assert_close(merge_by_engine(method, permuted, turned), merged)


@every_method
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_tensor_that_one_model_decides_is_that_models(method: MergeMethod, data: st.DataObject) -> None:
    arguments = data.draw(arguments_of(method))
    for parameter in method.parameters:  # the ends of a slider are where one model decides
        ends = [parameter.low, parameter.high, 1.0]
        if parameter.kind == "number" and data.draw(st.booleans()):
            value = data.draw(st.sampled_from(ends))
            count = len(arguments[parameter.argument]) if parameter.per_model else 0
            first = data.draw(st.integers(0, max(count - 1, 0)))
            own = [value if i == first else 0.0 for i in range(count)]
            arguments[parameter.argument] = own if parameter.per_model else value
    if method.check(arguments):
        return
    decided = method.decided_by(arguments)
    if decided is None:
        return
    tensors = tensors_of(method, 5, 4)

    merged = merge_whole(method, tensors, arguments)

    assert torch.equal(merged, tensors[decided + (method.base == "subtracted")].float())


@every_method
def test_described_in_full(method: MergeMethod) -> None:
    assert method.summary.endswith((".", ")."))
    assert len(method.summary) <= MAX_SUMMARY
    assert method.paper.startswith("https://")
    for parameter in method.parameters:
        assert parameter.help
        if parameter.default is not None:
            assert parameter.accepts(parameter.default)
        if parameter.kind in ("number", "integer"):
            assert None not in (parameter.low, parameter.high, parameter.step)


@every_method
def test_a_task_vector_method_without_models_gives_the_base(method: MergeMethod) -> None:
    if method.base != "subtracted":
        return
    base = tensors_of(method, 3, 3)[0]
    arguments = {p.argument: [] if p.per_model else p.default for p in method.parameters}

    assert torch.equal(merge_by_engine(method, [base], arguments), base.float())

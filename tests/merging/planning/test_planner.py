"""A planner that has planned a recipe plans others with other parameters as if it were new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints.problems import PlanError
from merging import METHODS, Plan, Recipe, read_recipe
from merging.planning import make
from merging.planning.make import Planner
from merging.planning.result_tensors import ResultTensors
from tests.merging.test_spares import Tensors, bert, hf, save
from tests.tiny import save_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b")):
        tiny_llama(folder / name, seed)
    save_tokenizer(tiny_llama(folder / "more", 3, vocab_size=260), [("h", "e"), ("l", "l")])
    save_tokenizer(tiny_llama(folder / "less", 4, vocab_size=258))
    return folder


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes whose tensors are found from the headers."""
    found: list[Recipe] = []
    whole = ResultTensors.lay_out

    def lay_out(self: ResultTensors) -> None:
        found.append(self.recipe)
        whole(self)

    monkeypatch.setattr(ResultTensors, "lay_out", lay_out)
    return found


def new(recipe: Recipe) -> Plan:
    with_headers = Planner()
    try:
        return with_headers.plan(recipe, files=False)
    finally:
        with_headers.close()


def arithmetic(folder: Path, first: Any, second: Any = 0.4, **more: Any) -> Recipe:
    weights = zip("ab", (first, second), strict=True)
    models = [{"model": str(folder / name), "parameters": {"weight": weight}} for name, weight in weights]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(folder / "base"), "models": models}
    return read_recipe(yaml.safe_dump({**recipe, **more}))


WEIGHTS: list[Any] = [
    0.5,
    [0.1, 0.9, 0.3],
    0,
    [0, 0, 1],
    [{"filter": "mlp", "value": [0, 1]}, {"filter": "layers.2", "value": 0}, {"value": 0.7}],
    [{"filter": "q_proj", "value": 0.2}, {"filter": "*", "value": 0.3}],
    1,
]


def test_other_weights_give_the_plan_of_a_new_planner(folder: Path, laid_out: list[Recipe]) -> None:
    planner = Planner()
    recipes = [arithmetic(folder, weight, 0) for weight in WEIGHTS]
    recipes += [arithmetic(folder, 0.5, parameters={"lambda": 0.3}), arithmetic(folder, 0.5)]

    plans = [planner.plan(recipe, files=False) for recipe in recipes]

    assert laid_out == recipes[:1]
    assert plans == [new(recipe) for recipe in recipes]
    planner.close()


@pytest.mark.parametrize("name", METHODS)
def test_other_parameters_of_each_method(folder: Path, name: str) -> None:
    method = METHODS[name]
    planner = Planner()
    for number in (0.0, 0.25, 1.0, 0.25):
        values = {
            p.name: p.low + number * (p.high - p.low) if p.kind == "number" else p.default
            for p in method.parameters
            if p.required or (p.kind == "number" and p.name in ("weight", "t", "lambda"))
            if p.low is not None and p.high is not None
        }
        names = ["a", "b"][: method.max_models or 2]
        recipe: dict[str, Any] = {"merge_method": name, "models": [{"model": str(folder / n)} for n in names]}
        recipe["parameters"] = values
        if method.base in ("subtracted", "first"):
            recipe["base_model"] = str(folder / ("base" if method.base == "subtracted" else "a"))
        try:
            read = read_recipe(yaml.safe_dump(recipe))
            expected = new(read)
        except PlanError as error:
            with pytest.raises(PlanError) as raised:
                planner.plan(read, files=False)
            assert raised.value.problems == error.problems
            continue
        assert planner.plan(read, files=False) == expected
    planner.close()


def test_anything_else_is_planned_anew(folder: Path, laid_out: list[Recipe]) -> None:
    models = [str(folder / name) for name in ("a", "b")]
    runs = [{"sources": [{"model": model, "layer_range": [0, 2]} for model in models]} for _ in range(2)]
    recipes = [
        arithmetic(folder, 0.5),
        arithmetic(folder, 0.5, dtype="float32"),
        arithmetic(folder, 0.5, base_model=str(folder / "a")),
        read_recipe(
            yaml.safe_dump({"merge_method": "linear", "slices": runs, "parameters": {"weight": 0.5}})
        ),
        read_recipe(
            yaml.safe_dump({"merge_method": "linear", "slices": runs[:1], "parameters": {"weight": 1}})
        ),
    ]
    planner = Planner()

    plans = [planner.plan(recipe, files=False) for recipe in recipes]

    assert laid_out == recipes
    assert plans == [new(recipe) for recipe in recipes]
    planner.close()


def test_slices_and_vocabularies_keep_their_tensors(folder: Path, laid_out: list[Recipe]) -> None:
    def sliced(first: float, second: float) -> Recipe:
        sources = [{"model": str(folder / name), "layer_range": [0, 2]} for name in "ab"]
        slices = [{"sources": sources, "parameters": {"weight": weight}} for weight in (first, second)]
        return read_recipe(yaml.safe_dump({"merge_method": "linear", "slices": slices}))

    def union(first: float, second: float) -> Recipe:
        models = [
            {"model": str(folder / name), "parameters": {"weight": weight}}
            for name, weight in (("more", first), ("less", second))
        ]
        recipe = {"merge_method": "linear", "models": models, "tokenizer": {"source": "union"}}
        return read_recipe(yaml.safe_dump(recipe))

    for made in (sliced, union):
        laid_out.clear()
        planner = Planner()
        plans = [planner.plan(made(*weights), files=False) for weights in ((0.5, 0.5), (0.1, 2.0))]
        assert len(laid_out) == 1
        assert plans[1] == new(made(0.1, 2.0)) != plans[0]
        planner.close()


def test_problems_of_parameters_are_found_and_forgotten(folder: Path) -> None:
    def of(weight: float) -> Recipe:
        models = [
            {"model": str(folder / name), "parameters": {"weight": one}}
            for name, one in (("a", weight), ("b", 1))
        ]
        return read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models}))

    planner = Planner()
    planner.plan(of(0.5), files=False)
    with pytest.raises(PlanError, match="add up to zero"):
        planner.plan(of(-1), files=False)
    assert planner.plan(of(0.25), files=False) == new(of(0.25))
    planner.close()


def test_models_that_are_opened_again_are_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    whole = make.open_checkpoint
    monkeypatch.setattr(
        make, "open_checkpoint", lambda name, *a, **k: (opened.append(name), whole(name, *a, **k))[1]
    )
    planner = Planner()
    alone = read_recipe(f"merge_method: passthrough\nmodels: [{{model: {folder / 'more'}}}]")

    for recipe in (arithmetic(folder, 0.5), arithmetic(folder, 0.7), alone, arithmetic(folder, 0.7)):
        planner.plan(recipe, files=False)

    assert len(opened) == 3 + 1 + 3
    planner.close()


def test_the_bias_of_a_head_follows_what_it_repeats(tmp_path: Path) -> None:
    def with_head(tensors: Tensors) -> Tensors:
        table = tensors["bert.embeddings.word_embeddings.weight"]
        return {**tensors, "cls.predictions.decoder.weight": table.clone()}

    first, second = (save(bert(hf.BertForMaskedLM), tmp_path / name, with_head) for name in "ab")

    def of(weight: float) -> Recipe:
        models = [{"model": str(first), "parameters": {"weight": weight}}, {"model": str(second)}]
        return read_recipe(
            yaml.safe_dump({"merge_method": "linear", "models": models, "parameters": {"weight": 1}})
        )

    planner = Planner()
    planner.plan(of(0.5), files=False)
    found = planner.plan(of(0.25), files=False)
    assert "cls.predictions.decoder.bias" in {tensor.name for tensor in found.tensors}
    assert found == new(of(0.25))
    planner.close()

"""The same recipes run by mergekit 0.1.5 and by us give the same tensors, within one step of the stored type.

mergekit is asked to compute in float32 (`dtype: float32, out_dtype: ...`): its own arithmetic is in the stored
type for most methods, ours is in float32 always.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from merging import METHODS, MergeMethod, Plan, make_plan, read_recipe, run_plan
from merging.plan import PlannedTensor
from tests.merging.methods.whole import merge_by_engine
from tests.tiny import tiny_llama

pytestmark = pytest.mark.oracle

Folders = dict[str, Path]


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["tied", "untied"])
def models(request: pytest.FixtureRequest, dtype: str, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("models")
    settings: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "tie_word_embeddings": request.param == "tied",
    }
    base = tiny_llama(folder / "base", 0, **settings)
    return {
        "base": base,
        "a": tiny_llama(folder / "a", 1, base, **settings),
        "b": tiny_llama(folder / "b", 2, base, shard="100KB", **settings),
        "c": tiny_llama(folder / "c", 3, base, **settings),
    }


def weighted(weight: Any, **more: Any) -> dict[str, Any]:
    return {"weight": weight, **more}


def whole(models: Folders, **parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"model": str(models[name]), "parameters": own} for name, own in parameters.items()]


def stack(models: Folders, *slices: dict[str, list[int]]) -> list[dict[str, Any]]:
    return [
        {"sources": [{"model": str(models[name]), "layer_range": layers} for name, layers in part.items()]}
        for part in slices
    ]


GRADIENT = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]

RECIPES: dict[str, Callable[[Folders], dict[str, Any]]] = {
    "linear": lambda m: {
        "merge_method": "linear",
        "models": whole(m, a=weighted(0.7), b=weighted(0.6), c=weighted(-0.1)),
    },
    "linear, not normalized, gradient": lambda m: {
        "merge_method": "linear",
        "models": whole(m, a=weighted([0.2, 0.9, 0.1]), b=weighted(0.3)),
        "parameters": {"normalize": False},
    },
    "linear, one counts": lambda m: {
        "merge_method": "linear",
        "models": whole(m, a=weighted(1.0), b=weighted(0.0)),
    },
    "linear, unlisted base": lambda m: {
        "merge_method": "linear",
        "models": whole(m, a={}, b={}),
        "base_model": str(m["base"]),
        "parameters": {"weight": 0.4},
    },
    "slerp, gradients": lambda m: {
        "merge_method": "slerp",
        "slices": stack(m, {"a": [0, 4], "b": [0, 4]}),
        "base_model": str(m["a"]),
        "parameters": {"t": GRADIENT},
    },
    "slerp, base second": lambda m: {
        "merge_method": "slerp",
        "models": whole(m, a={}, c={}),
        "base_model": str(m["c"]),
        "parameters": {"t": 0.3},
    },
    "slerp, one model and the base": lambda m: {
        "merge_method": "slerp",
        "models": whole(m, a={}),
        "base_model": str(m["base"]),
        "parameters": {"t": [0.2, 0.4]},
    },
    "nuslerp": lambda m: {
        "merge_method": "nuslerp",
        "models": whole(m, a=weighted(0.7), b=weighted([0.1, 0.9])),
    },
    "nuslerp, of changes": lambda m: {
        "merge_method": "nuslerp",
        "models": whole(m, a=weighted(0.7), b=weighted(0.4)),
        "base_model": str(m["base"]),
    },
    "nuslerp by rows": lambda m: {
        "merge_method": "nuslerp",
        "models": whole(m, a=weighted(0.7), b=weighted(0.4)),
        "parameters": {"nuslerp_flatten": False},
    },
    "nuslerp of changes by columns": lambda m: {
        "merge_method": "nuslerp",
        "models": whole(m, a=weighted(0.7), b=weighted(0.4)),
        "base_model": str(m["base"]),
        "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    },
    "multislerp": lambda m: {
        "merge_method": "multislerp",
        "models": whole(m, a=weighted(0.7), b=weighted(0.4), c=weighted(-0.1)),
    },
    "multislerp of changes, not normalized": lambda m: {
        "merge_method": "multislerp",
        "models": whole(m, a=weighted(0.7), b=weighted(0.4), c=weighted(0.3)),
        "base_model": str(m["base"]),
        "parameters": {"normalize_weights": False},
    },
    "multislerp in slices": lambda m: {
        "merge_method": "multislerp",
        "slices": stack(m, {"base": [0, 2], "a": [1, 3], "b": [0, 2]}, {"base": [3, 4], "b": [3, 4]}),
        "base_model": str(m["base"]),
        "parameters": {"weight": [0.2, 1.0]},
    },
    "task arithmetic": lambda m: {
        "merge_method": "task_arithmetic",
        "models": whole(m, a=weighted(0.8), b=weighted(-0.4), c=weighted([0, 1])),
        "base_model": str(m["base"]),
        "parameters": {"lambda": 0.9},
    },
    "task arithmetic, normalized": lambda m: {
        "merge_method": "task_arithmetic",
        "models": whole(m, a=weighted(0.8), base={}, b=weighted(0.4)),
        "base_model": str(m["base"]),
        "parameters": {"normalize": True, "int8_mask": True},
    },
    "ties": lambda m: {
        "merge_method": "ties",
        "models": whole(m, a=weighted(0.5, density=0.4), b=weighted(0.7, density=0.6), c=weighted(0.3)),
        "base_model": str(m["base"]),
        "parameters": {"density": 0.2},
    },
    "ties, not normalized, rescaled": lambda m: {
        "merge_method": "ties",
        "models": whole(m, a=weighted(0.5), b=weighted(0.7)),
        "base_model": str(m["base"]),
        "parameters": {"density": 0.3, "normalize": False, "rescale": True, "lambda": 0.7},
    },
    "ties, everything kept": lambda m: {
        "merge_method": "ties",
        "models": whole(m, a=weighted(0.5), b=weighted(-0.7), c=weighted(1.2)),
        "base_model": str(m["base"]),
    },
    "ties in slices": lambda m: {
        "merge_method": "ties",
        "slices": stack(m, {"base": [0, 2], "a": [1, 3]}, {"base": [3, 4], "b": [3, 4]}),
        "base_model": str(m["base"]),
        "parameters": {"weight": [0.2, 1.0], "density": [0.9, 0.1]},
    },
    "model stock": lambda m: {
        "merge_method": "model_stock",
        "models": whole(m, a={}, b={}, c={}),
        "base_model": str(m["base"]),
    },
    "model stock, filter by filter": lambda m: {
        "merge_method": "model_stock",
        "models": whole(m, a={}, b={}, c={}),
        "base_model": str(m["base"]),
        "parameters": {"filter_wise": True},
    },
    "dare, everything kept": lambda m: {
        "merge_method": "dare_linear",
        "models": whole(m, a=weighted(0.5), b=weighted(0.7)),
        "base_model": str(m["base"]),
        "parameters": {"density": 1.0, "lambda": 1.1},
    },
    "dare ties, everything kept": lambda m: {
        "merge_method": "dare_ties",
        "models": whole(m, a=weighted(0.5), b=weighted(-0.7), c=weighted(1.2)),
        "base_model": str(m["base"]),
        "parameters": {"density": 1.0},
    },
    "della, everything kept": lambda m: {
        "merge_method": "della",
        "models": whole(m, a=weighted(0.5), b=weighted(-0.7), c=weighted(1.2)),
        "base_model": str(m["base"]),
        "parameters": {"density": 1.0},
    },
    "della linear, everything kept or nothing": lambda m: {
        "merge_method": "della_linear",
        "models": whole(m, a=weighted(0.5, density=1.0), b=weighted(0.7, density=0.0)),
        "base_model": str(m["base"]),
    },
    "karcher": lambda m: {
        "merge_method": "karcher",
        "models": whole(m, a={}, b={}, c={}),
        "parameters": {"max_iter": 20},
    },
    "breadcrumbs": lambda m: {
        "merge_method": "breadcrumbs",
        "models": whole(m, a=weighted(0.5, density=0.4, gamma=0.1), b=weighted(0.7, density=0.6)),
        "base_model": str(m["base"]),
        "parameters": {"gamma": 0.05},
    },
    "breadcrumbs ties": lambda m: {
        "merge_method": "breadcrumbs_ties",
        "models": whole(m, a=weighted(0.5), b=weighted(0.7), c=weighted(0.4)),
        "base_model": str(m["base"]),
        "parameters": {"density": 0.3, "gamma": 0.1, "normalize": True},
    },
    "ram": lambda m: {
        "merge_method": "ram",
        "models": whole(m, a={}, b={}, c={}),
        "base_model": str(m["base"]),
    },
    "ram plus": lambda m: {
        "merge_method": "ramplus_tl",
        "models": whole(m, a={}, b={}, c={}),
        "base_model": str(m["base"]),
        "parameters": {"epsilon": 0.001, "r": 0.3, "alpha": 0.5},
    },
    "sce": lambda m: {
        "merge_method": "sce",
        "models": whole(m, a={}, b={}, c={}),
        "base_model": str(m["base"]),
    },
    "sce, selected": lambda m: {
        "merge_method": "sce",
        "models": whole(m, a={}, b={}, c={}),
        "base_model": str(m["base"]),
        "parameters": {"select_topk": 0.3},
    },
    "nearswap": lambda m: {
        "merge_method": "nearswap",
        "models": whole(m, a={}),
        "base_model": str(m["base"]),
        "parameters": {"t": 0.002},
    },
    "passthrough, a taller stack": lambda m: {
        "merge_method": "passthrough",
        "slices": stack(m, {"a": [0, 3]}, {"a": [1, 4]}),
    },
    "passthrough, two models, scaled": lambda m: {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": str(m["a"]), "layer_range": [0, 2]}]},
            {
                "sources": [
                    {
                        "model": str(m["b"]),
                        "layer_range": [1, 4],
                        "parameters": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1.5}]},
                    }
                ]
            },
        ],
    },
    "passthrough, head from an empty slice": lambda m: {
        "merge_method": "passthrough",
        "slices": stack(m, {"a": [0, 4]}, {"b": [0, 0]}),
    },
}


def mergekit(recipe: dict[str, Any], out: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import MergeOptions, run_merge

    try:
        run_merge(
            MergeConfiguration.model_validate(recipe),
            str(out),
            MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False),
        )
    finally:
        LoaderCache.loaders.clear()  # it keeps every file of every run mapped


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def one_tensor(folder: Path, name: str) -> torch.Tensor:
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118 (the file is no mapping)
                return file.get_tensor(name)  # type: ignore[no-any-return]
    raise KeyError(name)


@pytest.mark.parametrize("case", RECIPES)
def test_same_tensors(case: str, models: Folders, dtype: str, tmp_path: Path) -> None:
    recipe = {**RECIPES[case](models), "dtype": "float32", "out_dtype": dtype}
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(tmp_path / "ours"))
    assert plan.problems == ()
    run_plan(plan, str(tmp_path / "ours"))
    mergekit(recipe, tmp_path / "theirs")

    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")

    assert ours.keys() == theirs.keys()
    step = {"bfloat16": 2**-7, "float32": 1e-6}[dtype]  # relative distance of two neighbours
    for tensor in plan.tensors:
        expected = theirs[tensor.name]
        assert ours[tensor.name].dtype == expected.dtype == getattr(torch, dtype), tensor.name
        sure = ~chosen_among_equals(tensor, plan)
        # Norms lie around 1, where bfloat16 is coarse: there nearly all changes are equal.
        assert "norm" in tensor.name or sure.float().mean() > 0.99
        torch.testing.assert_close(
            ours[tensor.name].float()[sure], expected.float()[sure], rtol=step, atol=2e-7, msg=tensor.name
        )


def chosen_among_equals(tensor: PlannedTensor, plan: Plan) -> torch.Tensor:
    """Where a model's change is exactly as large as the smallest that is kept, or the smallest that is too large, or
    where the models differ as much as where they differ least of what is kept.

    Only so many of these equals are kept; mergekit leaves it to an unstable sort which, we take the first.
    """
    unsure = torch.zeros(tensor.shape, dtype=torch.bool)
    topk = tensor.parameters.get("select_topk", 1.0)
    if isinstance(topk, float) and topk < 1:
        base, *models = [one_tensor(Path(plan.models[i.model].name), i.tensor).float() for i in tensor.inputs]
        variance = torch.stack([model - base for model in models]).double().var(dim=0, correction=0)
        ordered = variance.flatten().sort(descending=True).values
        smallest = ordered[int(ordered.count_nonzero() * topk) - 1]
        return (variance / smallest - 1).abs() < 1e-5
    densities = tensor.parameters.get("density")
    if not isinstance(densities, list) or "rescale_norm" in tensor.parameters:
        return unsure
    base, *models = [one_tensor(Path(plan.models[i.model].name), i.tensor).float() for i in tensor.inputs]
    outliers = tensor.parameters.get("gamma", [0.0] * len(models))
    assert isinstance(outliers, list)
    for model, density, gamma in zip(models, densities, outliers, strict=True):
        if density < 1:
            change = (model - base).abs()
            size = change.numel()
            # TIES keeps one at least.
            in_between = int(density * size) if "gamma" in tensor.parameters else max(int(density * size), 1)
            largest = min(int(gamma * size), size - in_between)
            for kept in {largest, largest + in_between} - {0}:
                limit = np.partition(change.flatten().numpy(), size - kept)[size - kept]
                equal = change == float(limit)
                unsure |= equal & (equal.sum() > 1)
    return unsure


def test_same_layer_count(models: Folders, dtype: str, tmp_path: Path) -> None:
    import json

    recipe = {**RECIPES["passthrough, a taller stack"](models), "dtype": dtype}
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)))
    mergekit(recipe, tmp_path / "theirs")

    ours, theirs = (
        json.loads(plan.files["config.json"]),
        json.loads((tmp_path / "theirs/config.json").read_text()),
    )

    assert ours["num_hidden_layers"] == theirs["num_hidden_layers"] == 6
    assert ours.get("dtype") == theirs.get("dtype") == dtype


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_what_mergekit_knows_is_what_the_methods_say(method: MergeMethod) -> None:
    from mergekit.merge_methods.registry import get, registered_methods

    assert method.in_mergekit is (method.name in {theirs.spec.name for theirs in registered_methods()})
    if method.in_mergekit:
        theirs = {parameter.name for parameter in get(method.name).spec.parameters}
        ours = {parameter.name for parameter in method.parameters}
        assert theirs == (ours - set(method.own_parameters)) | (theirs & set(method.ignored))


@pytest.mark.parametrize("shape", [(64, 48), (50,), (7, 1), (1, 9)])
def test_arcee_fusion_takes_the_same_entries(shape: tuple[int, ...]) -> None:
    """mergekit is asked for float64: the divergence between fine-tunes is of the size of float32's rounding."""
    from mergekit.merge_methods import merge_tensors

    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    model = base + 0.1 * torch.randn(shape, generator=generator)
    theirs = merge_tensors([base.double(), model.double()], "arcee_fusion", base_index=0)

    ours = merge_by_engine(METHODS["arcee_fusion"], [base, model], {})

    assert torch.equal(ours.double(), theirs.double())


def test_arcee_fusion_writes_the_type_that_is_asked_for(models: Folders, tmp_path: Path) -> None:
    recipe = {
        "merge_method": "arcee_fusion",
        "models": whole(models, a={}),
        "base_model": str(models["base"]),
    }
    recipe["dtype"] = "bfloat16"

    run_plan(make_plan(read_recipe(yaml.safe_dump(recipe))), str(tmp_path / "ours"))

    assert {tensor.dtype for tensor in tensors(tmp_path / "ours").values()} == {torch.bfloat16}

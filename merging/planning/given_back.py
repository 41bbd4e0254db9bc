"""Recipes that give one of their parents back: what they merge with has no part in the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpoints.problems import Problem
from merging.methods import METHODS, MergeMethod
from merging.plan import Plan, PlannedTensor
from merging.recipe.recipe import Recipe

# With one model besides the base, what a method with no other parameters than these makes of it is its weight times
# lambda, or lambda alone where weights are normalized.
_SIMPLE = {"weight", "normalize", "lambda", "density", "rescale", "rescale_norm", "election", "int8_mask"}


def gives_back(recipe: Recipe, plan: Plan) -> list[Problem]:
    """A warning if the result is one of the recipe's models, whole and alone, though it names several."""
    method = METHODS.get(plan.method)
    if len(plan.models) < 2:
        return []
    if method is None or method.max_models == 1 or recipe.slices or recipe.modules or recipe.mixture:
        return []
    sources = {_source(method, tensor) for tensor in plan.tensors}
    model = sources.pop() if len(sources) == 1 else None
    if model is None or plan.models[model].adapters or plan.models[model].alignment:
        return []
    return [Problem("gives-back", {"model": plan.models[model].name, "title": method.title})]


def _source(method: MergeMethod, tensor: PlannedTensor) -> int | None:
    """The model whose tensor comes out as it is; None if something is computed."""
    if len(tensor.inputs) == 1 and not tensor.parameters:
        return tensor.inputs[0].model
    if len(tensor.inputs) == 2 and adds_one_whole(method, tensor.parameters):
        return tensor.inputs[1].model
    return None


def adds_one_whole(method: MergeMethod, values: Mapping[str, Any]) -> bool:
    """Whether a method adds its only task vector as it is, by parameters as a plan has them."""
    weights = values.get("weight")
    if not method.operand.startswith("task_vector") or not isinstance(weights, list) or len(weights) != 1:
        return False
    if not {parameter.name for parameter in method.parameters} <= _SIMPLE:
        return False
    whole = values.get("density", [1.0]) == [1.0]
    weight = 1.0 if values.get("normalize") and weights[0] > 0 else weights[0]
    return bool(whole and weight * values.get("lambda", 1.0) == 1.0)

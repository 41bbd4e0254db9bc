"""Which expert of a mixture each prompt would reach, found out before the mixture is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from checkpoints import Token
from checkpoints.architecture import Layout
from checkpoints.problems import PlanError, Problem
from merging.engine.models import open_models
from merging.experts.routing import Routing, route
from merging.plan import Plan
from merging.planning.make import make_plan
from merging.planning.prompts import PromptReader
from merging.recipe.recipe import Recipe


def route_prompts(
    recipe: Recipe,
    prompts: Sequence[str] = (),
    *,
    token: Token = None,
    allow_folders: bool = True,
    check: Callable[[], None] = lambda: None,
) -> Routing:
    """Find out which expert each prompt would reach: the recipe's own and others. Reads the base model once.

    Args:
        recipe: of a mixture of experts whose routers are computed
        prompts: texts of no expert, to try
        token, allow_folders: see `make_plan`
        check: called between steps; raises to stop

    Raises:
        PlanError: the recipe is no such mixture, or cannot be made
        CheckpointError: the base cannot be read
    """
    if recipe.mixture is None or not recipe.mixture.is_computed:
        raise PlanError(Problem("nothing-to-route"))
    plan = make_plan(recipe, token=token, allow_folders=allow_folders)
    if not plan.ok:
        raise PlanError(plan.problems)
    return route_planned(plan, prompts, token=token, check=check)


def route_planned(
    plan: Plan,
    prompts: Sequence[str] = (),
    *,
    token: Token = None,
    check: Callable[[], None] = lambda: None,
) -> Routing:
    """The same for a plan without problems.

    Raises:
        PlanError: it makes no mixture whose routers are computed
        CheckpointError: the base cannot be read
    """
    gates = plan.gates
    if gates is None:
        raise PlanError(Problem("nothing-to-route"))
    model = plan.models[gates.base]
    [base] = open_models(replace(plan, models=(model,), shards=()), token, check)
    try:
        reader = PromptReader(model.name, base, Layout(base.tensors, base.config))
        return route(gates, base, [reader.read(text) for text in prompts], check)
    finally:
        base.close()

"""Which expert of a mixture each prompt would reach, found out before the mixture is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from checkpoints import Checkpoint, Token
from checkpoints.architecture import Layout
from checkpoints.confined import LimitError
from checkpoints.problems import MergeError, PlanError, Problem
from merging.engine.models import Check, open_models
from merging.experts.routing import Routing, route
from merging.plan import Gates, Plan, Prompt
from merging.planning.confined_plan import PLANNED, over_limit
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

    >>> route_prompts(recipe, ["Prove it.", "Rhyme it."]).prompts[0].reached  # doctest: +SKIP

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
    return route_planned(plan, read_prompts(plan, prompts, token), token=token, check=check)


def route_planned(
    plan: Plan,
    prompts: Sequence[Prompt] = (),
    *,
    token: Token = None,
    check: Check = lambda: None,
) -> Routing:
    """The same for a plan without problems, and prompts that are tokens already.

    Raises:
        PlanError: it makes no mixture whose routers are computed
        CheckpointError: the base cannot be read
    """
    with closing(_base(plan, token, check)) as base:
        return route(_gates(plan), base, prompts, check)


def read_prompts(plan: Plan, texts: Sequence[str], token: Token = None) -> list[Prompt]:
    """Texts as the tokens of the model whose states count. Errors as for `route_planned`."""
    if not texts:
        return []
    with closing(_base(plan, token, lambda: None)) as base:
        reader = PromptReader(plan.models[_gates(plan).base].name, base, Layout(base.tensors, base.config))
        return [reader.read(text) for text in texts]


def read_prompts_apart(plan: Plan, texts: Sequence[str], token: str | bool | None) -> list[Prompt]:
    """The same in a process of its own: the tokenizer is a stranger's.

    Raises:
        PlanError: as for `read_prompts`, or it takes too much time or memory
    """
    try:
        found = _read_apart({"plan": plan.cut(()).to_data(), "texts": list(texts), "token": token})
    except LimitError:
        raise PlanError(over_limit()) from None
    if problems := found["problems"]:
        raise PlanError(map(Problem.from_data, problems))
    return [Prompt(text, tuple(tokens)) for text, tokens in found["prompts"]]


def prompts_read(asked: dict[str, Any]) -> dict[str, Any]:
    """What `read_prompts` finds, or the problems, for the process that reads them."""
    try:
        found = read_prompts(Plan.from_data(asked["plan"]), asked["texts"], asked["token"])
    except MergeError as error:
        return {"problems": [asdict(problem) for problem in error.problems]}
    return {"prompts": [[prompt.text, prompt.tokens] for prompt in found], "problems": []}


_read_apart = PLANNED.beside(__name__, prompts_read.__name__)


def _gates(plan: Plan) -> Gates:
    if plan.gates is None:
        raise PlanError(Problem("nothing-to-route"))
    return plan.gates


def _base(plan: Plan, token: Token, check: Check) -> Checkpoint:
    """The model whose states count, open."""
    model = plan.models[_gates(plan).base]
    [base] = open_models(replace(plan, models=(model,), shards=()), token, check)
    return base

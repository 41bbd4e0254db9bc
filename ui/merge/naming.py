"""What the result of a recipe is called, as long as the visitor has not named it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from merging import MergeError, Plan, Recipe, read_recipe
from ui.server.merge_service import exists


def named(
    text: str, name: str, planned: Callable[[str], Plan], is_taken: Callable[[str], bool]
) -> tuple[str, Plan]:
    """The name that the visitor wrote, or else the first suggestion that is free, with its plan.

    Args:
        text: the recipe
        name: as the visitor wrote it; empty for none
        planned: plans a result of a name
        is_taken: whether a result of a name exists
    """
    called = name.strip() or default_name(text)
    plan = planned(called)
    if name.strip() or not exists(plan.problems):
        return called, plan
    free = next((other for other in numbered(called) if not is_taken(other)), None)
    return (free, planned(free)) if free else (called, plan)


def default_name(text: str) -> str:
    """The name of what a recipe makes, if it gets no other."""
    recipe = recipe_or_none(text)
    if recipe is None:
        return suggested_name((), "")
    names = [str(model) for model in recipe.references()]
    others = [name for name in names if name != str(recipe.base_model)]
    return suggested_name(others or names, "moe" if recipe.mixture else recipe.merge_method)


def suggested_name(models: Sequence[str], method: str) -> str:
    """A name for the merge of these models: `SmolLM2-135M-Pirate-slerp`."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(models[0].partition("@")[0]).name) if models else "merged"
    name = f"{stem[:70]}-{method.replace('_', '-')}".strip("-._")
    return re.sub(r"([-.])\1+", r"\1", name)


def numbered(name: str) -> Iterator[str]:
    """Names for further merges of the same models: `name-2`, `name-3` and so on, up to twenty."""
    return (f"{name}-{number}" for number in range(2, 21))


def recipe_or_none(text: str) -> Recipe | None:
    """The recipe of a text; None if it is not valid."""
    try:
        return read_recipe(text)
    except MergeError:
        return None

"""The recipe of a model as it is, so that its GGUF files are made as those of any merge."""

from __future__ import annotations

import json

from merging.recipe.reader import read_recipe
from merging.recipe.recipe import Recipe


def recipe_of(model: str) -> Recipe:
    """The recipe that takes a model over.

    Args:
        model: a folder, or `owner/name`, with `@revision` and `+adapter` as in recipes

    Raises:
        RecipeError: it names no model.
    """
    return read_recipe(f"merge_method: passthrough\nmodels:\n- model: {json.dumps(model)}\n")

"""What was meant by the name of a model that the Hub does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from checkpoints.names import hub_id
from checkpoints.problems import Problem
from checkpoints.repositories.repository import Token

# Names of an owner that are compared, and how alike two names have to be, from 0 to 1.
MAX_NAMES = 200
ALIKE = 0.8


def with_similar_names(problems: Iterable[Problem], token: Token) -> tuple[Problem, ...]:
    """The problems; those of models that the Hub does not have name the model, `similar`, that was probably meant."""
    return tuple(_with_similar_name(problem, token) for problem in problems)


def _with_similar_name(problem: Problem, token: Token) -> Problem:
    model = str(problem.values.get("model"))
    if problem.code != "model-not-found" or not hub_id(model):
        return problem
    similar = find_similar(model, token)
    return replace(problem, values={**problem.values, "similar": similar}) if similar else problem


def find_similar(model: str, token: Token) -> str:
    """The id on the Hub that is most like another: of the same owner, or with the same name; empty if none is."""
    names = list(_candidates(model, token))
    lower = {name.lower(): name for name in names if name != model}
    found = difflib.get_close_matches(model.lower(), lower, 1, ALIKE)
    return lower[found[0]] if found else ""


def _candidates(model: str, token: Token) -> Iterator[str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    owner, _, name = model.partition("/")
    api = HfApi(token=token() if callable(token) else token)
    with suppress(HfHubHTTPError, OSError, ValueError):
        yield from (found.id for found in api.list_models(author=owner, limit=MAX_NAMES))
        yield from (found.id for found in api.list_models(search=name, limit=MAX_NAMES))

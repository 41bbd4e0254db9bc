"""Whatever is written, a recipe is read or refused in words, soon; and its fixes are edits that lead somewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from checkpoints.problems import Problem
from checkpoints.yaml import documents
from merging import RecipeError, read_recipe
from merging.recipe.fixes import MOST_FIXES, fixes, mended
from merging.recipe.reader import read_reference
from merging.recipe.yaml import MOST_PROBLEMS
from tests.merging.recipe.fuzz import texts

# Seconds of processor time for one recipe: a loaded machine takes others of the clock.
SOON = 10
QUICK = settings(max_examples=100, deadline=None, derandomize=True)
LONG = settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def problems_of(text: str) -> tuple[Problem, ...]:
    try:
        recipe = read_recipe(text)
    except RecipeError as error:
        assert error.problems
        return error.problems
    assert recipe.method.name
    told(recipe.warnings)
    return ()


def told(problems: tuple[Problem, ...]) -> None:
    """Every problem has words, and goes through JSON."""
    assert len(problems) <= MOST_PROBLEMS
    for problem in problems:
        assert problem.message
        json.dumps(problem.as_dict(), allow_nan=False)


def check(text: str) -> None:
    began = time.thread_time()
    problems = problems_of(text)
    told(problems)
    for fix in fixes(text, problems, lambda names: "the/base"):
        assert fix.title
        assert fix.recipe != text
        assert documents(fix.recipe).nodes
    better, done = mended(text, problems_of, lambda names: "")
    assert len(done) < MOST_FIXES
    if done:
        told(problems_of(better))
    assert time.thread_time() - began < SOON


def check_reference(text: str) -> None:
    try:
        assert read_reference(text).name
    except RecipeError as error:
        told(error.problems)


@pytest.mark.parametrize("law", [check, check_reference])
def test_recipes_quickly(law: Callable[[str], None]) -> None:
    QUICK(given(texts)(law))()


def test_a_zero_byte_behind_a_home_folder_is_no_path() -> None:
    check_reference("~\0")
    check('merge_method: linear\nmodels: [{model: "~\\0x"}]')


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("law", [check, check_reference])
def test_recipes_at_length(law: Callable[[str], None]) -> None:
    LONG(given(texts)(law))()

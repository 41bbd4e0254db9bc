"""Examples in docstrings: every public function has one, which fits it, and those that need no model run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tests import ROOT

PACKAGES = ("checkpoints", "merging", "evaluation")
# Modules with an example that runs.
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in (*PACKAGES, "searching", "healing", "alloy", "ui")
    for path in (ROOT / package).rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


def functions() -> list[Callable[..., Any]]:
    rooms = [importlib.import_module(f"{package}.public") for package in PACKAGES]
    found = (getattr(room, name) for room in rooms for name in room.__all__)
    return [one for one in found if inspect.isfunction(one)]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("function", functions(), ids=lambda function: str(function.__name__))
def test_a_public_function_has_an_example_that_fits_it(function: Callable[..., Any]) -> None:
    name = function.__name__
    examples = doctest.DocTestParser().get_examples(function.__doc__ or "")
    nodes = [node for one in examples for node in ast.walk(ast.parse(one.source))]
    calls = [
        node
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]

    assert calls
    for call in calls:
        keywords = {keyword.arg or "": None for keyword in call.keywords}
        inspect.signature(function).bind(*call.args, **keywords)

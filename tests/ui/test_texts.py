"""Every sentence that is asked for is there, and every sentence is asked for."""

from __future__ import annotations

import ast
from pathlib import Path

from ui.texts import ENGLISH, t

FILES = sorted((Path(__file__).parents[2] / "ui").glob("*.py"))


def asked_for() -> tuple[set[str], set[str]]:
    """The keys in the code: whole ones, and beginnings of those that are put together."""
    whole, beginnings = set(), set()
    for path in FILES:
        if path.name == "texts.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ENGLISH:
                whole.add(node.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t":
                key = node.args[0]
                if isinstance(key, ast.Constant):
                    whole.add(str(key.value))
                elif isinstance(key, ast.JoinedStr) and isinstance(key.values[0], ast.Constant):
                    beginnings.add(str(key.values[0].value))
    return whole, beginnings


def test_no_sentence_is_missing() -> None:
    whole, beginnings = asked_for()

    assert whole <= ENGLISH.keys()
    assert all(any(key.startswith(start) for key in ENGLISH) for start in beginnings)


def test_no_sentence_is_left_over() -> None:
    whole, beginnings = asked_for()

    assert [key for key in ENGLISH if key not in whole and not key.startswith(tuple(beginnings))] == []


def test_values_are_filled_in() -> None:
    assert t("jobs.tensors", done=3, total=5) == "3 of 5 tensors"

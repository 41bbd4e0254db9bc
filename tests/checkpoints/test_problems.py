"""Every problem has words, every value that they name is given wherever it is made, and no words are left over."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import pytest

from checkpoints.problem_texts import PHRASES, PROBLEMS, WORDING
from checkpoints.problems import CheckpointError, Place, Problem, suggestion
from checkpoints.wording import Template, Wording, few, placeholders
from evaluation import EvaluationError
from tests import ROOT

# What makes problems, besides `Problem` itself: the values that it adds. Those by keyword are its caller's.
MAKERS: dict[str, set[str]] = {
    "Problem": set(),
    "problem": set(),
    "PickleError": {"file"},
    "_damaged": {"file"},
    "_error": {"adapter"},
    "_problem": {"repository"},
    "_refusal": {"file", "model"},
    "_warn": set(),
}
# What functions give as values.
GIVEN = {
    "suggestion": {"near", "known"},
    "about": {"method", "title", "parameter", "help", "expected"},
    "about_not_finite": {"count", "total", "tensors"},
}
# Places that make problems of codes that are decided elsewhere: what gives them their codes is checked itself.
PASSED_ON = {
    "checkpoints/adapters/adapter.py",
    "checkpoints/formats/safetensors.py",
    "checkpoints/formats/torch_zip.py",
    "merging/destinations/account.py",
    "merging/destinations/hub.py",
    "merging/gguf/converter.py",
    "merging/gguf/layout.py",
    "merging/planning/code_files.py",
    "merging/planning/result_files.py",
    "merging/planning/result_tensors.py",
    "merging/planning/runs.py",
    "merging/planning/stacks.py",
    "merging/recipe/yaml.py",
    "merging/tokenizers/tokenizer.py",
    "ui/api.py",
    "ui/rented/job.py",
    "ui/server/internal_error.py",
    "evaluation/confine.py",
}
FILES = [
    path
    for folder in ("alloy", "checkpoints", "merging", "evaluation", "searching", "healing", "ui")
    for path in (ROOT / folder).rglob("*.py")
]


def templates(template: Template) -> tuple[str, ...]:
    return (template,) if isinstance(template, str) else template


def needed(code: str) -> set[str]:
    """The values that a code's words cannot do without: those of its last templates."""
    return {name for template in PROBLEMS[code] for name in placeholders(templates(template)[-1])}


def known(code: str) -> set[str]:
    return {name for template in PROBLEMS[code] for one in templates(template) for name in placeholders(one)}


def keys_of(node: ast.expr, scope: ast.AST) -> set[str] | None:
    """The keys of a mapping, as far as they are written there; None if they are made elsewhere."""
    if isinstance(node, ast.Dict):
        found: set[str] = set()
        for key, value in zip(node.keys, node.values, strict=True):
            inner = {str(key.value)} if isinstance(key, ast.Constant) else keys_of(value, scope)
            if inner is None:
                return None
            found |= inner
        return found
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return GIVEN.get(node.func.id)
    if isinstance(node, ast.Name):
        found, seen = set(), False
        for part in ast.walk(scope):
            targets = (
                part.targets
                if isinstance(part, ast.Assign)
                else [part.target]
                if isinstance(part, ast.AnnAssign)
                else []
            )
            for target in targets:
                if isinstance(target, ast.Name) and target.id == node.id and part.value is not None:  # type: ignore[attr-defined]
                    inner = keys_of(part.value, scope)  # type: ignore[attr-defined]
                    found, seen = found | (inner or set()), seen or inner is not None
                if isinstance(target, ast.Subscript) and getattr(target.value, "id", "") == node.id:
                    found.add(str(getattr(target.slice, "value", "")))
        return found if seen else None
    return None


def codes_of(node: ast.expr, scope: ast.AST) -> set[str]:
    """The codes that an argument can be; none if they come from elsewhere."""
    if isinstance(node, ast.Constant):
        return {str(node.value)}
    if isinstance(node, ast.IfExp):
        return codes_of(node.body, scope) | codes_of(node.orelse, scope)
    if isinstance(node, ast.Name):
        assigned = [
            part.value
            for part in ast.walk(scope)
            if isinstance(part, ast.Assign)
            and any(getattr(target, "id", "") == node.id for target in part.targets)
        ]
        return set().union(*(codes_of(value, scope) for value in assigned))
    return set()


def made(makers: Mapping[str, set[str]] = MAKERS) -> Iterator[tuple[str, set[str], set[str]]]:
    """Every place that makes a problem: its file, the codes that it may have, and the values that it gives.

    Args:
        makers: what makes problems, or other things of codes and values, with the values that it adds
    """
    for path in FILES:
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        seen: set[int] = set()
        for scope in [*reversed(functions), tree]:  # the innermost first
            for call in ast.walk(scope):
                name = getattr(
                    getattr(call, "func", None), "id", getattr(getattr(call, "func", None), "attr", "")
                )
                if not isinstance(call, ast.Call) or name not in makers or not call.args or id(call) in seen:
                    continue
                seen.add(id(call))
                values = set(makers[name]) | {str(keyword.arg) for keyword in call.keywords if keyword.arg}
                for argument in call.args[1:]:
                    values |= keys_of(argument, scope) or set()
                file = path.relative_to(ROOT).as_posix()
                yield file, codes_of(call.args[0], scope), values


def test_every_problem_has_words_and_every_word_its_value() -> None:
    passed_on = set()
    for file, codes, values in made():
        if not codes:
            passed_on.add(file)
        for code in codes:
            assert code in PROBLEMS, f"{file}: {code} has no words in problem_texts"
            assert needed(code) <= values, f"{file}: {code} lacks {needed(code) - values}"

    assert passed_on <= PASSED_ON


def test_what_the_plan_collects_by_model_has_its_values() -> None:
    for code in ("unexpected-keys", "missing-keys", "shape", "vocabulary"):
        assert known(code) <= {"model", "tensors", "donor", "tokenizers"}


def test_no_words_are_left_over() -> None:
    written = {
        node.value
        for path in FILES
        if path.name != "problem_texts.py" and "languages" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert [code for code in (*PROBLEMS, *PHRASES) if code not in written] == []


def test_a_problem_survives_json_and_other_processes() -> None:
    problem = Problem(
        "unknown-method", {"name": "tise", **suggestion("tise", ["ties", "slerp"])}, Place(3, 5)
    )

    assert Problem.from_data(json.loads(json.dumps(asdict(problem)))) == problem
    assert pickle.loads(pickle.dumps(CheckpointError(problem))).problems == (problem,)
    assert pickle.loads(pickle.dumps(EvaluationError(problem))).problems == (problem,)
    assert json.loads(json.dumps(problem.as_dict())) == {
        "code": "unknown-method",
        "message": "There is no merge method 'tise'.",
        "fix": "Did you mean 'ties'?",
        "where": "line 3, column 5",
        "values": {"name": "tise", "near": "ties", "known": ["slerp", "ties"]},
    }
    assert str(problem) == "line 3, column 5: There is no merge method 'tise'. Did you mean 'ties'?"
    assert len({problem, replace(problem, values={})}) == 2


def test_a_word_that_is_like_no_other_lists_all() -> None:
    problem = Problem("unknown-method", {"name": "?", **suggestion("?", ["ties", "slerp"])})

    assert problem.fix == "Known: slerp, ties."


@pytest.mark.parametrize(
    ("template", "values", "sentence"),
    [
        ("{count} {count:layer|layers}", {"count": 1}, "1 layer"),
        ("{count} {count:layer|layers}", {"count": 0}, "0 layers"),
        ("{names:model|models}", {"names": ["a"]}, "model"),
        ("{names:all}", {"names": ["a", "b"]}, "a, b"),
        ("{names:and}", {"names": ["a", "b", "c"]}, "a, b and c"),
        ("{names:code}", {"names": ["a", "b"]}, "`a` and `b`"),
        ("{names:few}", {"names": few(["a", "b", "c"])}, "a, b, c"),
        ("{names:few}", {"names": few(["a", "b", "c", "d", "e"])}, "a, b, c and 2 more"),
        ("{what:phrase}", {"what": "fish"}, "a fish"),
        ("{what:phrase}", {"what": "'fish'"}, "'fish'"),
        ("{parts:each}", {"parts": [{"phrase": "sized", "size": 2}, "fish"]}, "2 wide; a fish"),
        ("{size:,}", {"size": 1000}, "1,000"),
        (("{a} and {b}", "{a}"), {"a": "x", "b": "y"}, "x and y"),
        (("{a} and {b}", "{a}"), {"a": "x", "b": None}, "x"),
        (("{a} and {b}", "{a}"), {"a": "x"}, "x"),
        (("{b:all}", "none"), {"b": []}, "none"),
        (("{b}", "none"), {"b": 0}, "0"),
    ],
)
def test_values_are_filled_in(template: Template, values: Mapping[str, object], sentence: str) -> None:
    wording = Wording({"fish": "a fish", "sized": "{size} wide"})

    assert wording.sentence(template, values) == sentence


def test_every_phrase_that_is_asked_for_is_there() -> None:
    asked = {
        str(value.value)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "phrase" and isinstance(value, ast.Constant)
    }

    assert asked <= PHRASES.keys()
    assert WORDING.phrases is PHRASES


def test_a_phrase_is_said_in_words_wherever_it_stands() -> None:
    whole = {"phrase": "whole-number"}
    problem = Problem(
        "training-number", {"name": "steps", "found": "x", "whole": whole, "least": 1, "most": 9}
    )

    assert problem.message == "`steps` is x, and a whole number from 1 to 9 is expected."

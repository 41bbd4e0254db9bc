"""Records that hold a token do not show it: they end up in logs, in tracebacks and in what people paste."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from merging.destinations.destination import DestinationOptions
from merging.planning.confined_plan import PlanRequest
from tests import ROOT
from tests.test_imports import MAY_IMPORT

# A token of a vocabulary.
HARMLESS = {("merging/recipe/recipe.py", "TokenRow")}


def shown() -> Iterator[tuple[str, str]]:
    """The file and class of every record with a token in its repr."""
    for package in MAY_IMPORT:
        for path in [ROOT / package] if package.endswith(".py") else (ROOT / package).rglob("*.py"):
            file = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and _is_record(node):
                    for line in node.body:
                        if isinstance(line, ast.AnnAssign) and _holds_token(line):
                            yield file, node.name


def _is_record(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(it) for it in node.decorator_list) or any(
        ast.unparse(base).endswith("NamedTuple") for base in node.bases
    )


def _holds_token(line: ast.AnnAssign) -> bool:
    is_token = ast.unparse(line.annotation) == "Token" or ast.unparse(line.target) == "token"
    return is_token and not (line.value and "repr=False" in ast.unparse(line.value))


def test_no_record_shows_a_token() -> None:
    assert {*shown()} == HARMLESS


def test_what_a_plan_is_asked_for_shows_no_credentials() -> None:
    keys = {"AWS_SECRET_ACCESS_KEY": "a-secret-marker"}
    request = PlanRequest("", None, "hf_marker", False, False, False, 0, keys)

    told = repr(request) + repr(DestinationOptions("hf_marker"))

    assert "hf_marker" not in told
    assert "a-secret-marker" not in told

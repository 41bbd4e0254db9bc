"""Tables of words: a key that is written twice would silently take the later words."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests import ROOT

CATALOGUES = [
    ROOT / "checkpoints" / "problem_texts.py",
    ROOT / "evaluation" / "remark_texts.py",
    *sorted((ROOT / "ui" / "languages").rglob("*.py")),
]


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_key_is_written_twice(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            counts = Counter(key.value for key in node.keys if isinstance(key, ast.Constant))
            assert [key for key, count in counts.items() if count > 1] == []

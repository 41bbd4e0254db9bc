"""The example notebook runs from the first cell to the last, in a clone, with the demo's models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

NOTEBOOK: dict[str, Any] = json.loads((ROOT / "examples" / "alloy.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_one_and_holds_no_results() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert all(not cell["outputs"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")


def test_every_cell_is_python() -> None:
    for number, code in enumerate(CODE):
        compile(code, f"cell {number}", "exec")


@pytest.mark.real_models
def test_the_notebook_plans_merges_chats_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}

    for number, code in enumerate(CODE):
        exec(compile(code, f"cell {number}", "exec"), scope)

    assert scope["plan"].ok
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert "Tokyo" in scope["answer"]
    assert scope["found"].words in capsys.readouterr().out

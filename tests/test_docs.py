"""The documentation is true: generated pages are current, recipes can be read, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alloy.pipeline import read_pipeline
from docs.generated import PAGES
from docs.links import DOCUMENTS, broken
from merging import read_recipe
from tests import ROOT
from tests.test_imports import FLOORS

RECIPES = [
    pytest.param(recipe, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, recipe in enumerate(
        re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), (
        "run `make docs`, and commit what it writes"
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_reads(recipe: str) -> None:
    if pipeline := read_pipeline(recipe):
        assert pipeline.documents
        return
    assert read_recipe(recipe).merge_method


def test_recipes_are_found() -> None:
    assert len(RECIPES) >= 4


def test_every_link_leads_somewhere() -> None:
    assert broken(DOCUMENTS) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A title, `code` and more\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](there.md) [b](there.md#a-title-code-and-more) [c](there.md#twice-1) [d](#page) [web](https://x.y)\n"
        "[e](gone.md) [f](there.md#nowhere) ![g](gone.png) `[h](code.md)` `merging/no_such_file.py`\n"
    )

    found = broken([page])

    assert [line.partition(": ")[2] for line in found] == [
        "gone.md",
        "there.md#nowhere",
        "gone.png",
        "merging/no_such_file.py",
    ]


def test_the_link_checker_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.links"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_the_map_names_every_module_of_merging() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "merging").iterdir():
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert path.name in text, path.name
        if path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in text, path.name


def test_the_floors_are_those_that_are_tested() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = " ".join(text.partition("    methods -> ")[2].partition("\n\n")[0].split())
    floors = [rooms[0] if len(rooms) == 1 else f"{{{', '.join(rooms)}}}" for rooms in FLOORS["merging"]]

    assert f"methods -> {drawn}" == " -> ".join(floor for floor in floors if "__" not in floor)

"""The direction of imports, as DESIGN draws it: app -> ui -> {merging, evaluation}, and inside merging downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Which of our own packages, and which of the two interface libraries, a part may import.
MAY_IMPORT = {
    "app.py": {"ui", "gradio", "spaces"},
    "ui": {"ui", "merging", "evaluation", "gradio", "spaces"},
    "merging": {"merging"},
    "evaluation": {"evaluation"},
}
WATCHED = {"app", "ui", "merging", "evaluation", "tests", "bench", "examples", "gradio", "spaces"}

# The floors of merging/: a module may import from its own floor and from those above it in this list.
FLOORS = [
    ["problems", "dtypes"],
    ["methods"],
    ["settings"],
    ["recipe", "checkpoints"],
    ["architecture", "plan", "destinations"],
    ["companions", "costs", "card"],
    ["planning", "read_ahead"],
    ["blocks"],
    ["execution"],
    ["__init__", "__main__"],
]


def python_files(part: str) -> list[Path]:
    path = ROOT / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_parts_import_only_what_they_may(part: str) -> None:
    for path in python_files(part):
        found = {name.partition(".")[0] for name in imports(path)} & WATCHED
        assert found <= MAY_IMPORT[part], path


def floor(module: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if module in names)


def test_merging_imports_downwards() -> None:
    package = ROOT / "merging"
    for path in python_files("merging"):
        own = path.relative_to(package).with_suffix("").parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "merging" and len(parts) > 1 and (package / parts[1]).with_suffix(".py").exists():
                assert floor(parts[1]) <= floor(own), f"{path} imports {name}"


def test_methods_see_no_recipes_files_or_devices() -> None:
    for path in python_files("merging/methods"):
        ours = {name for name in imports(path) if name.startswith("merging")}
        assert all(name.startswith("merging.methods") for name in ours), path


def test_a_plan_waits_for_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = "import sys, merging.__main__ as m; m.main(['plan', sys.argv[1]]); print(*sys.modules)"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("merge_method: passthrough\nmodels: [{model: /nowhere at all}]")

    done = subprocess.run(
        [sys.executable, "-c", code, str(recipe)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "merging.planning" in done.stdout.split()
    assert not {"torch", "transformers"} & set(done.stdout.split())

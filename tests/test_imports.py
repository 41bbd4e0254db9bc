"""The direction of imports: app -> ui -> {merging, evaluation} -> checkpoints, and inside merging downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.tiny import tiny_llama

# Which of our own packages, and which of the two interface libraries, a part may import.
MAY_IMPORT = {
    "app.py": {"ui", "gradio", "spaces"},
    "ui": {"ui", "merging", "evaluation", "checkpoints", "gradio", "spaces"},
    "merging": {"merging", "checkpoints"},
    "evaluation": {"evaluation", "checkpoints"},
    "checkpoints": {"checkpoints"},
}
WATCHED = {"app", *MAY_IMPORT, "tests", "bench", "examples", "gradio", "spaces"}

# The floors of a package, from the ground up: a room may import from its own floor and from the floors below.
FLOORS = {
    "merging": [
        ["methods"],
        ["recipe"],
        ["tokenizers"],
        ["plan"],
        ["intermediate", "destinations"],
        ["planning"],
        ["engine"],
        ["lora_extraction"],
        ["__init__", "__main__"],
    ],
    "ui": [
        ["host", "languages"],
        ["recipe", "widgets"],
        ["hub"],
        ["server"],
        ["merge", "methods"],
        ["chat", "score"],
        ["api"],
        ["page"],
        ["__init__"],
    ],
}


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


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_downwards(package: str) -> None:
    floors = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms}
    for path in python_files(package):
        own = path.relative_to(ROOT / package).with_suffix("").parts[0]
        for name in imports(path):
            first, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if first == package and room in floors:
                assert floors[room] <= floors[own], f"{path} imports {name}"


def test_the_rooms_of_the_page_form_no_circle() -> None:
    for path in python_files("ui"):
        own = path.relative_to(ROOT / "ui").with_suffix("").parts[0]
        beside = next(rooms for rooms in FLOORS["ui"] if own in rooms)
        found = {name.split(".")[1] for name in imports(path) if name.startswith("ui.")}
        assert not found & (set(beside) - {own}), path


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

    assert "merging.planning.make" in done.stdout.split()
    assert not {"torch", "transformers"} & set(done.stdout.split())


def test_the_command_line_imports_torch_without_what_only_its_compiler_needs(tmp_path: Path) -> None:
    code = """
import sys
from merging.engine.torch_import import import_torch
import_torch()
import torch
assert "torch._meta_registrations" not in sys.modules, "the stand-in is still there"
assert "torch._decomp" not in sys.modules, "torch has another way to its registrations now; see torch_import"
block = torch.arange(6.0).bfloat16().float()
assert block.mul_(2).add_(block, alpha=0.5).sum().item() == 45
import torch._meta_registrations as late
assert late.__file__
assert torch.empty(3, device="meta").shape == (3,)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_merge_that_only_copies_does_not_wait_for_torch(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model", 0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: passthrough\nmodels: [{{model: {tmp_path / 'model'}}}]")
    code = "import sys, merging.__main__ as m; assert m.main(sys.argv[1:]) == 0; print(*sys.modules)"
    command = ["run", str(recipe), "--to", str(tmp_path / "out")]

    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "torch" not in done.stdout.split()

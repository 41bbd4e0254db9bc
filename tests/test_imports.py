"""The direction of imports: {app, alloy} -> ui -> {searching, healing} -> {merging, evaluation} -> checkpoints.

Inside merging and ui, downwards.
"""

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
    "alloy": {"alloy", "ui", "searching", "healing", "merging", "evaluation", "checkpoints"},
    "ui": {"ui", "searching", "healing", "merging", "evaluation", "checkpoints", "gradio", "spaces"},
    "searching": {"searching", "merging", "evaluation", "checkpoints"},
    "healing": {"healing", "merging", "evaluation", "checkpoints"},
    "merging": {"merging", "checkpoints"},
    "evaluation": {"evaluation", "checkpoints"},
    "checkpoints": {"checkpoints"},
}
WATCHED = {"app", *MAY_IMPORT, "tests", "bench", "examples", "gradio", "spaces"}

# The floors of a package, from the ground up: a room may import from its own floor and from the floors below.
FLOORS = {
    "merging": [
        ["methods"],
        ["fp8", "recipe"],
        ["tokenizers"],
        ["plan"],
        ["experts", "intermediate", "destinations", "result_card", "licences"],
        ["gguf"],
        ["engine"],
        ["planning"],
        [
            "expert_extraction",
            "gguf_conversion",
            "lora_extraction",
            "prompt_routing",
            "rented_machines",
            "shaping",
        ],
        ["public", "__init__", "command_line"],
        ["__main__"],
    ],
    "searching": [
        ["goals", "huge_pages", "names", "operands", "starters"],
        ["live_merge", "space"],
        ["genome", "gradient", "split", "figures", "memory"],
        ["learning", "regmean", "fisher", "space_reader", "data", "teachers"],
        ["records", "objective", "optimiser"],
        ["workers", "shared_study", "backup"],
        ["elsewhere"],
        ["plan"],
        ["descent", "report"],
        ["run"],
        ["public", "__init__", "command_line"],
        ["__main__"],
    ],
    "healing": [
        ["settings", "losses"],
        ["data", "as_trl"],
        ["licences"],
        ["costs", "plan", "training", "instructions"],
        ["price"],
        ["branch", "preferences", "stored_teacher", "trl_loss", "weights"],
        ["distillation"],
        ["run"],
        ["public", "__init__", "command_line"],
        ["__main__"],
    ],
    "ui": [
        ["host", "languages"],
        ["recipe", "widgets"],
        ["hub"],
        ["server"],
        ["job_tray", "rented"],
        ["heal"],
        ["merge", "methods"],
        ["chat", "gallery", "score", "search"],
        ["share"],
        ["result"],
        ["api"],
        ["page"],
        ["__init__", "serve"],
    ],
}


def python_files(part: str) -> list[Path]:
    path = ROOT / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports(path: Path, *, types: bool = True) -> Iterator[str]:
    """Names of what a file imports.

    Args:
        types: whether imports count that are for types alone
    """
    tree = ast.parse(path.read_text())
    checking = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    left_out = {id(inner) for node in checking for inner in ast.walk(node)} if not types else set()
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
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
def test_every_room_has_a_floor(package: str) -> None:
    rooms = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__pycache__"} == {room for rooms in FLOORS[package] for room in rooms}


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


@pytest.mark.parametrize("package", ["checkpoints", "evaluation"])
def test_rooms_form_no_circle(package: str) -> None:
    """Each can be put above all that it imports; what types alone need does not count."""
    below: dict[str, set[str]] = {}
    for path in python_files(package):
        own = path.relative_to(ROOT / package).with_suffix("").parts[0]
        found = {name.split(".")[1] for name in imports(path, types=False) if name.startswith(f"{package}.")}
        below.setdefault(own, set()).update(found - {own})
    while free := {room for room, others in below.items() if not others & below.keys()}:
        below = {room: others for room, others in below.items() if room not in free}
    assert below == {}


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


@pytest.mark.parametrize("module", ["alloy", "merging", "evaluation", "searching", "healing"])
@pytest.mark.parametrize(
    "arguments", ["--help", "run --help", "perplexity --help", "weights one --sample none"]
)
def test_help_and_wrong_arguments_wait_for_no_library(module: str, arguments: str) -> None:
    """They take 0.3 seconds of CPU, and so may import none of what takes longer."""
    code = (
        f"import sys, {module}.__main__ as front_end\n"
        "try: front_end.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], cwd=ROOT, capture_output=True, text=True, check=True
    )

    slow = {
        "torch",
        "transformers",
        "numpy",
        "scipy",
        "huggingface_hub",
        "lm_eval",
        "gradio",
        "jinja2",
        "optuna",
        "yaml",
    }
    assert "typer" in done.stdout.split()
    assert not slow & set(done.stdout.split())


@pytest.mark.parametrize("package", ["checkpoints", "evaluation", "merging", "searching", "healing"])
def test_public_names_win_over_rooms_of_the_same_name(package: str) -> None:
    code = f"""
import importlib, pathlib, {package}
rooms = {{path.stem for path in pathlib.Path({package}.__file__).parent.iterdir() if not path.stem.startswith("_")}}
for room in rooms - {{"py", "texts"}}:
    importlib.import_module("{package}." + room)
public = importlib.import_module("{package}.public")
for name in public.__all__:
    assert getattr({package}, name) is getattr(public, name), name
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


def test_no_module_hides_what_merging_offers() -> None:
    """A module that is imported becomes an attribute of its package, and would be found in place of a function."""
    import merging.public

    rooms = {path.stem for path in (ROOT / "merging").iterdir()}
    assert not rooms & {*merging.public.__all__}

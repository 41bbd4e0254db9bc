"""What is installed from us: the wheel in an empty environment, and what a Space takes from the package index."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file

from alloy import __version__
from tests import ROOT
from tests.test_duplicating import requirements
from tests.test_readme import front_matter
from tests.tiny import tiny_llama

PACKAGES = ("alloy", "checkpoints", "evaluation", "healing", "merging", "searching", "ui")
# Dependencies of lm-eval that are published as source alone. Each must build to a wheel of plain Python.
SOURCE_ONLY = ("rouge-score", "sqlitedict", "word2number")
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)

pytestmark = pytest.mark.package


def run(*command: str | Path, cwd: Path, expected: int = 0) -> str:
    """Run a command elsewhere than in the checkout; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def pip(*arguments: str | Path, cwd: Path, python: str | Path = sys.executable) -> str:
    return run(python, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves folders behind in what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    programs = folder / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    pip("install", "--no-compile", "--constraint", constraints, wheel, cwd=folder, python=programs / "python")
    return programs


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert held == ours
    assert {f"{name}/py.typed" for name in PACKAGES} <= held
    assert wheel.name == f"alloy_merge-{__version__}-py3-none-any.whl"


def test_the_core_alone_merges(installed: Path, tmp_path: Path) -> None:
    recipe = (ROOT / "examples" / "recipes" / "linear.yaml").read_text(encoding="utf-8")
    names = re.findall(r"model: (\S+)", recipe)
    assert len(names) == 2
    for seed, name in enumerate(names):
        tiny_llama(tmp_path / f"model{seed}", seed)
        recipe = recipe.replace(name, str(tmp_path / f"model{seed}"))
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")

    said = run(installed / "alloy", "run", "recipe.yaml", "--to", "out", cwd=tmp_path)

    first, second, merged = (
        load_file(tmp_path / name / "model.safetensors") for name in ("model0", "model1", "out")
    )
    assert "read by folder, written by folder" in said
    assert merged.keys() == first.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(
            tensor.float(), (first[name].float() + second[name].float()) / 2, rtol=0, atol=4e-3
        )
    listed = json.loads(pip("list", "--format", "json", cwd=tmp_path, python=installed / "python"))
    assert not {"gradio", "lm-eval", "lm_eval", "transformers", "spaces"} & {one["name"] for one in listed}


def test_the_core_says_what_else_to_install(installed: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model", 0)

    assert run(installed / "alloy", "--version", cwd=tmp_path) == f"alloy {__version__}\n"
    judged = run(installed / "alloy", "perplexity", "model", cwd=tmp_path, expected=1)
    page = run(installed / "alloy", "app", cwd=tmp_path, expected=1)

    assert "pip install 'alloy-merge[evaluation]'" in judged
    assert "pip install 'alloy-merge[app]'" in page


def test_everything_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Here, where all extras are installed: the page finds its data outside the checkout too."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from evaluation.text import BUNDLED, bundled_text\n"
        "assert all(map(bundled_text, BUNDLED)) and BUNDLED\n"
        "from ui.serve import page\n"
        "import ui.page\n"
        "page()\n"
        "print(ui.page.__file__)"
    )

    said = run(sys.executable, "-I", "-c", code, cwd=tmp_path)

    assert str(tmp_path / "site") in said.splitlines()[-1]


def test_a_space_can_install_what_it_is_told_to(tmp_path: Path) -> None:
    """pip resolves it for the Space's Python and platform, and downloads no torch for it.

    pip judges conditions such as `python_version == "3.12"` by its own Python, so those of our files are judged here.
    Half of torch's dependencies are CUDA's, at the versions of torch's release: a stand-in takes its place, and the
    index is asked only whether the release that was tested is there for this Python.
    """
    python = str(front_matter()["python_version"])
    target = ["--python-version", python, "--implementation", "cp", "--only-binary", ":all:"]
    target += [part for name in PLATFORMS for part in ("--platform", name)]
    target += [part for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for part in ("--abi", abi)]
    locked = requirements("constraints.txt", python)
    for file in ("requirements.txt", "constraints.txt"):
        lines = [f"{one.name}{extras(one)}{one.specifier}\n" for one in requirements(file, python).values()]
        (tmp_path / file).write_text("".join(lines))
    release = str(locked["torch"].specifier).removeprefix("==")
    stand_in(tmp_path / "links", "torch", f"{release}+without.cuda")
    build = [
        "wheel",
        "--no-deps",
        "--wheel-dir",
        tmp_path / "links",
        "--constraint",
        tmp_path / "constraints.txt",
    ]
    pip(*build, "--no-binary", ",".join(SOURCE_ONLY), *SOURCE_ONLY, cwd=tmp_path)
    assert all(path.name.endswith("-none-any.whl") for path in (tmp_path / "links").iterdir())

    versions = pip("index", "versions", "torch", *target, cwd=tmp_path)
    gradio = f"gradio[mcp,oauth]=={front_matter()['sdk_version']}"
    files = ["-r", tmp_path / "requirements.txt", "-c", tmp_path / "constraints.txt"]
    report = tmp_path / "report.json"
    options = ["--dry-run", "--ignore-installed", "--target", tmp_path / "target", "--report", report]
    pip(
        "install",
        *options,
        *target,
        "--find-links",
        tmp_path / "links",
        *files,
        gradio,
        "spaces",
        cwd=tmp_path,
    )

    assert release in re.findall(r"[\d.]+\d", versions)
    found = {
        one["metadata"]["name"].lower().replace("_", "-") for one in json.loads(report.read_text())["install"]
    }
    assert {"torch", "transformers", "lm-eval", "gradio", "spaces", "sqlitedict", "typer"} <= found


def extras(one: Requirement) -> str:
    return f"[{','.join(sorted(one.extras))}]" if one.extras else ""


def stand_in(folder: Path, name: str, version: str) -> None:
    """Put a wheel into a folder that holds nothing and asks for nothing."""
    folder.mkdir()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")

"""Free memory: the machine's, or what the limit of a container leaves."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoints import memory
from tests import ROOT

GB = 10**9


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GB of which 40 are free; returns its folder of control groups."""
    found = SimpleNamespace(total=64 * GB, available=40 * GB)
    monkeypatch.setattr("checkpoints.memory.psutil.virtual_memory", lambda: found)
    monkeypatch.setattr("checkpoints.memory.CGROUP", tmp_path)
    return tmp_path


def version_2(root: Path, limit: str, used: int, cache: int) -> None:
    (root / "memory.max").write_text(f"{limit}\n")
    (root / "memory.current").write_text(f"{used}\n")
    (root / "memory.stat").write_text(f"anon 7\ninactive_file {cache}\n")


def version_1(root: Path, limit: int, used: int, cache: int) -> None:
    folder = root / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 7\ntotal_inactive_file {cache}\n")


def test_without_a_container_it_is_the_machines(machine: Path) -> None:
    assert (memory.machine_memory(), memory.free_memory()) == (64 * GB, 40 * GB)


@pytest.mark.parametrize("write", [version_1, version_2])
def test_a_container_may_have_less_and_its_file_cache_is_free(machine: Path, write: object) -> None:
    assert callable(write)
    write(machine, 16 * GB, 10 * GB, 3 * GB)

    assert (memory.machine_memory(), memory.free_memory()) == (16 * GB, 9 * GB)


def test_a_container_without_a_limit_has_the_machines(machine: Path) -> None:
    version_2(machine, "max", 10 * GB, 0)
    version_1(machine, 2**63 - 4096, 10 * GB, 0)  # how version 1 says that there is none

    assert (memory.machine_memory(), memory.free_memory()) == (64 * GB, 40 * GB)


def test_a_limit_above_what_the_machine_has_free_promises_nothing(machine: Path) -> None:
    version_2(machine, str(60 * GB), 10 * GB, 0)

    assert memory.free_memory() == 40 * GB


def test_more_than_the_limit_in_use_is_nothing_free(machine: Path) -> None:
    version_2(machine, str(16 * GB), 17 * GB, 0)

    assert memory.free_memory() == 0


def test_on_this_machine_it_is_a_number_of_bytes() -> None:
    assert 0 < memory.free_memory() <= memory.machine_memory()


def test_nothing_else_asks_the_machine() -> None:
    """Whoever asks psutil itself is blind to a container's limit."""
    parts = ("checkpoints", "merging", "evaluation", "searching", "healing", "ui", "bench")
    files = [ROOT / "app.py", *(path for part in parts for path in (ROOT / part).rglob("*.py"))]
    asking = {
        path.relative_to(ROOT).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "virtual_memory"
    }

    assert asking == {"checkpoints/memory.py"}

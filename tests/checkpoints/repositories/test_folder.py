"""Folders: few files open at a time, however many there are, and no reader left with another file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from checkpoints.repositories.folder import Folder

COUNT = 12


def open_in(folder: Path) -> int:
    """How many files of a folder this process has open."""
    targets = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            targets.append(str(Path(entry.path).readlink()))
        except FileNotFoundError:
            continue
    return sum(target.startswith(str(folder)) for target in targets)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 4096)
    return tmp_path


def test_a_folder_of_many_files_keeps_few_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoints.repositories.open_files.MAX_OPEN", 3)
    files = Folder(folder)

    def read(number: int) -> bytes:
        buffer = bytearray(16)
        files.read_into(f"{number}.bin", 100, memoryview(buffer))
        return bytes(buffer)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, list(range(COUNT)) * 50))

    assert found == [bytes([number]) * 16 for number in range(COUNT)] * 50
    assert open_in(folder) == 3
    files.close()
    assert open_in(folder) == 0

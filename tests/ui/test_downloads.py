"""Files to take home: bounded, unguessable, gone after an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging import MergeError
from ui.downloads import SECONDS_KEPT, Downloads, links


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_hour_later_the_files_are_gone(tmp_path: Path) -> None:
    clock = Clock()
    downloads = Downloads(tmp_path / "d", 100, clock)
    (tmp_path / "d" / "left-by-an-earlier-server").mkdir(parents=True)
    first = downloads.reserve("x", 60)
    first.mkdir()
    (first / "model.safetensors").write_bytes(b"1")

    assert [name for name, _ in links(str(first))] == ["model.safetensors"]
    with pytest.raises(MergeError, match="60 B"):
        downloads.reserve("y", 60)
    clock.now = SECONDS_KEPT + 1
    second = downloads.reserve("y", 60)

    assert not first.exists()
    assert [folder.name for folder in (tmp_path / "d").iterdir()] == [second.parent.name]
    assert links(str(first)) == []


def test_names_cannot_be_guessed(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path)

    names = {downloads.reserve("x", 1).parent.name for _ in range(20)}

    assert len(names) == 20
    assert min(map(len, names)) >= 32


def test_a_full_disk_is_told_before_anything_is_merged(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="free here for downloads"):
        Downloads(tmp_path, 10**18).reserve("x", 10**17)

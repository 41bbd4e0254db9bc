"""Files to take home: bounded, unguessable, gone after an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging import MergeError
from ui.server.downloads import SECONDS_KEPT, ResultDownloads, links


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(downloads: ResultDownloads, name: str, nbytes: int) -> Path:
    place = downloads.place(name, nbytes)
    with downloads.reserve(place, nbytes):
        place.mkdir()
        (place / "model.safetensors").write_bytes(b"1")
    return place


def test_an_hour_later_the_files_are_gone(tmp_path: Path) -> None:
    clock = Clock()
    downloads = ResultDownloads(tmp_path / "d", 100, clock)
    (tmp_path / "d" / "left-by-an-earlier-server").mkdir(parents=True)
    first = made(downloads, "x", 60)

    assert [name for name, _ in links(str(first))] == ["model.safetensors"]
    with pytest.raises(MergeError, match="60 B"):
        downloads.place("y", 60)
    clock.now = SECONDS_KEPT + 1
    second = made(downloads, "y", 60)

    assert not first.exists()
    assert [folder.name for folder in (tmp_path / "d").iterdir()] == [second.parent.name]
    assert links(str(first)) == []


def test_names_cannot_be_guessed(tmp_path: Path) -> None:
    downloads = ResultDownloads(tmp_path)

    names = {downloads.place("x", 1).parent.name for _ in range(20)}

    assert len(names) == 20
    assert min(map(len, names)) >= 32


def test_a_full_disk_is_told_before_anything_is_merged(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="free here for downloads"):
        ResultDownloads(tmp_path, 10**18).place("x", 10**17)


def test_room_is_kept_while_a_result_is_made_and_given_back_if_it_is_not(tmp_path: Path) -> None:
    clock = Clock()
    downloads = ResultDownloads(tmp_path, 100, clock)
    first, second = downloads.place("x", 60), downloads.place("y", 60)  # both may stand in line

    with pytest.raises(ZeroDivisionError), downloads.reserve(first, 60):
        clock.now = 2 * SECONDS_KEPT  # a long merge
        with pytest.raises(MergeError, match="40 B are free"), downloads.reserve(second, 60):
            pass
        raise ZeroDivisionError

    assert list(tmp_path.iterdir()) == []
    with downloads.reserve(second, 60):
        pass
    assert second.parent.is_dir()

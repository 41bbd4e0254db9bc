"""Room on the disk for models from the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, scan_cache_dir

from evaluation import EvaluationError, fetch_model
from evaluation.downloads import Downloads
from tests.evaluation.conftest import make_network
from tests.hub import Hub

MakeFolder = Callable[..., Path]
NAMES = ("ann/one", "ann/two", "ann/three")


@pytest.fixture
def size(hub: Hub, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """Three models of so many bytes on the Hub, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.add_user("ann")
    for seed, name in enumerate(NAMES):
        folder = make_folder(make_network(seed), name=name)
        hub.put(name, folder)
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    mine = Downloads()
    monkeypatch.setattr("evaluation.model_files.DOWNLOADS", mine)
    monkeypatch.setattr("evaluation.model.DOWNLOADS", mine)
    return mine


def disk(monkeypatch: pytest.MonkeyPatch, total: float, free: float) -> None:
    usage = SimpleNamespace(total=int(total), free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def fetched(name: str) -> str:
    return fetch_model(name, token=False, allow_folders=False).name


def held() -> set[str]:
    return {repo.repo_id for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos}


def test_a_model_that_the_disk_has_no_room_for_is_refused_before_its_weights_come(
    hub: Hub, size: int, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched("ann/one")
    hub.log.clear()
    disk(monkeypatch, 10 * size, size / 2)

    with pytest.raises(EvaluationError, match=r"ann/two: .* room for .* HF_HUB_CACHE"):
        fetched("ann/two")

    assert not [sent for sent in hub.log if sent.path.endswith("model.safetensors") and sent.method == "GET"]
    assert "ann/one" in held()  # on somebody's own machine nothing is deleted
    assert fetched("ann/one")  # what is here needs no room


def test_on_a_server_the_longest_unused_leave_and_the_disk_is_never_more_than_half_full(
    size: int, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.limit()
    disk(monkeypatch, 2 * 2.5 * size, 100 * size)
    monkeypatch.setattr("evaluation.downloads._IN_USE", 0)
    fetched("ann/one")
    fetched("ann/two")
    fetched("ann/one")  # used again, so that the other is the longest unused

    fetched("ann/three")

    assert held() == {"ann/one", "ann/three"}
    assert fetched("ann/two")  # it comes again
    assert held() == {"ann/two", "ann/three"}


def test_what_is_still_coming_does_not_leave_however_long_it_takes(
    size: int, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched("ann/one")
    (repo,) = scan_cache_dir(constants.HF_HUB_CACHE).repos
    (revision,) = repo.revisions
    downloads.limit()
    disk(monkeypatch, 2 * 1.5 * size, 100 * size)
    monkeypatch.setattr("evaluation.downloads._IN_USE", 0)

    with downloads.room_for("ann/one", revision.commit_hash, {}), pytest.raises(EvaluationError):
        fetched("ann/two")
    assert "ann/one" in held()

    assert fetched("ann/two")


def test_what_somebody_has_just_asked_for_does_not_leave(
    size: int, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.limit()
    disk(monkeypatch, 2 * 1.5 * size, 100 * size)
    fetched("ann/one")

    with pytest.raises(EvaluationError, match="come back in some minutes"):
        fetched("ann/two")

    assert "ann/one" in held()

"""What every kind of repository must do. A new one needs an entry in `KINDS`, and passes all of this."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

import checkpoints.repositories
from checkpoints.problems import CheckpointError
from checkpoints.repositories import open_location, open_repository
from checkpoints.repositories.bucket import BucketRepository
from checkpoints.repositories.folder import Folder
from checkpoints.repositories.hub import HubRepository
from checkpoints.repositories.repository import Repository
from checkpoints.repositories.store import StoreRepository
from checkpoints.repositories.subfolder import Subfolder
from tests.hub import Hub
from tests.merges import without_pauses
from tests.s3 import Bucket

CONTENT = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 1000, "deep/file.txt": b"deep"}

# Adds files to what a repository holds, and opens it.
Make = Callable[[dict[str, bytes]], Repository]


@pytest.fixture
def make_folder(tmp_path: Path) -> Make:
    def make(content: dict[str, bytes]) -> Repository:
        for name, data in content.items():
            (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "model" / name).write_bytes(data)
        return open_repository(str(tmp_path / "model"), None, None, True)

    return make


@pytest.fixture
def make_on_hub(hub: Hub, token: str) -> Make:
    def make(content: dict[str, bytes]) -> Repository:
        if content:
            hub.put("alice/model", content, private=True)
        return open_repository("alice/model", None, token, False)

    return make


@pytest.fixture
def make_subfolder(hub: Hub, token: str) -> Make:
    def make(content: dict[str, bytes]) -> Repository:
        if content:
            hub.put("alice/parts", {f"a/b/{name}": data for name, data in content.items()}, private=True)
        return open_repository("alice/parts/a/b", None, token, False)

    return make


@pytest.fixture
def make_cached(hub: Hub, token: str) -> Make:
    def make(content: dict[str, bytes]) -> Repository:
        if content:
            hub.put("alice/cached", content, private=True)
        snapshot_download("alice/cached", token=token)
        return open_repository("alice/cached", None, token, False)

    return make


@pytest.fixture
def make_in_store(bucket: Bucket) -> Make:
    def make(content: dict[str, bytes]) -> Repository:
        bucket.put(content, "models/model")
        return open_repository(f"{bucket.address}/models/model", None, None, True)

    return make


@pytest.fixture
def make_in_bucket(hub: Hub, token: str) -> Make:
    def make(content: dict[str, bytes]) -> Repository:
        files = {f"models/model/{name}": data for name, data in content.items()}
        hub.put_in_bucket("alice/work", {"models/model-2/config.json": b"{}", **files}, private=True)
        return open_repository("hf://buckets/alice/work/models/model", None, token, False)

    return make


KINDS = {
    "make_folder": Folder,
    "make_on_hub": HubRepository,
    "make_cached": HubRepository,
    "make_subfolder": Subfolder,
    "make_in_store": StoreRepository,
    "make_in_bucket": BucketRepository,
}


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    without_pauses(monkeypatch)
    return hub.add_user("alice")


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.getfixturevalue(request.param)
    return made


def read(repository: Repository, file: str, start: int, size: int) -> bytes:
    buffer = bytearray(size)
    repository.read_into(file, start, memoryview(buffer))
    return bytes(buffer)


def test_every_kind_is_here() -> None:
    package = checkpoints.repositories
    modules = [
        importlib.import_module(f"{package.__name__}.{entry.name}")
        for entry in pkgutil.iter_modules(package.__path__)
    ]
    found = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and hasattr(kind, "location") and kind is not Repository
    }
    assert found == set(KINDS.values())


def test_it_lists_its_files_with_their_sizes(make: Make) -> None:
    repository = make(CONTENT)

    assert repository.files.items() >= {name: len(data) for name, data in CONTENT.items()}.items()


def test_any_range_of_any_file_can_be_read_from_several_threads(make: Make) -> None:
    repository = make(CONTENT)
    ranges = [
        (name, start, min(size, len(data) - start))
        for name, data in CONTENT.items()
        for start in (0, 1, len(data) // 2, len(data))
        for size in (0, 1, 100, len(data))
    ]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: read(repository, *place), ranges))

    assert found == [CONTENT[name][start : start + size] for name, start, size in ranges]
    assert repository.read_by


def test_it_says_how_it_was_read(make: Make) -> None:
    repository = make(CONTENT)

    read(repository, "config.json", 0, 2)

    assert len(repository.read_by) == 1
    assert repository.read_by <= ({"HTTP"} if not repository.is_local("config.json") else {"folder", "cache"})


@pytest.mark.parametrize("start", [1, 100, 2**63])
def test_bytes_that_are_not_there_are_refused(start: int, make: Make) -> None:
    repository = make(CONTENT)

    with pytest.raises(CheckpointError):
        read(repository, "config.json", start, 100)


def test_the_version_is_that_of_the_content(make: Make) -> None:
    first = make(CONTENT)
    again = make({})
    changed = make({"config.json": b'{"more": 1}'})

    assert first.version == again.version != changed.version


def test_it_is_opened_again_from_its_location(make: Make, token: str) -> None:
    repository = make(CONTENT)
    file = "model.safetensors"

    again = open_location(repository.location([file]), token)

    assert (again.name, again.version) == (repository.name, repository.version)
    assert (again.is_folder, again.is_local(file)) == (repository.is_folder, repository.is_local(file))
    assert again.files[file] == len(CONTENT[file])
    assert read(again, file, 1000, 500) == CONTENT[file][1000:1500]


def test_it_can_be_closed_twice_and_interrupted_when_nothing_runs(make: Make) -> None:
    repository = make(CONTENT)
    read(repository, "config.json", 0, 2)

    repository.interrupt()
    repository.close()
    repository.close()

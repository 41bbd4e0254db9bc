"""Models in the Hugging Face cache: read there and not over the network, left as they are, and shown to nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from checkpoints import open_checkpoint
from checkpoints.repositories.hub import find_on_hub
from merging import CheckpointError, make_plan, read_recipe, run_plan
from tests import ROOT
from tests.hub import Hub
from tests.merges import merged, ties, weight_files, without_pauses
from tests.merging.test_adapters import adapter, alone

WEIGHTS = r"/resolve/.*safetensors|^/lfs/"
SHARD = 150_000


def tree(folder: Path) -> list[tuple[str, int, int]]:
    """Every file and folder of the cache, with size and time of change."""
    found = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(str(path), status.st_size, status.st_mtime_ns) for path, status in found]


def download(name: str, token: str | bool = False) -> Path:
    return Path(snapshot_download(name, token=token))


@pytest.fixture
def public(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub with the three models of alice, which everyone may read; none of them is in the cache."""
    without_pauses(monkeypatch)
    hub.add_user("alice")
    for name in ("base", "a", "b"):
        hub.put(f"alice/{name}", folder / name)
    return hub


@pytest.fixture
def cached(public: Hub) -> Hub:
    """The same with all three in the cache."""
    for name in ("base", "a", "b"):
        download(f"alice/{name}")
    public.log.clear()
    return public


@pytest.fixture
def right(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a merge of the folders writes."""
    merged(ties(folder), tmp_path / "right", SHARD)
    return weight_files(tmp_path / "right")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


def test_of_cached_models_no_byte_comes_over_the_network(
    cached: Hub, right: dict[str, bytes], tmp_path: Path
) -> None:
    before = tree(Path(constants.HF_HUB_CACHE))

    plan = make_plan(read_recipe(ties("alice")), str(tmp_path / "out"), shard_size=SHARD)
    result = run_plan(plan, str(tmp_path / "out"))

    assert [(model.is_cached, model.is_remote, model.is_folder) for model in plan.models] == [
        (True, False, False)
    ] * 3
    assert result.read_by == ("cache",)
    assert cached.log.find(path="/resolve/|^/lfs/") == []
    assert weight_files(tmp_path / "out") == right
    assert tree(Path(constants.HF_HUB_CACHE)) == before


def test_a_plan_for_models_at_hand_costs_less_than_one_for_the_network(public: Hub, tmp_path: Path) -> None:
    recipe = read_recipe(ties("alice"))
    remote = make_plan(recipe, str(tmp_path / "out"))
    for name in ("base", "a", "b"):
        download(f"alice/{name}")

    plan = make_plan(recipe, str(tmp_path / "out"))

    assert plan.seconds < remote.seconds
    assert plan.peak_memory_bytes < remote.peak_memory_bytes
    assert plan.fingerprint == remote.fingerprint


def test_what_the_cache_lacks_comes_over_the_network(
    cached: Hub, right: dict[str, bytes], tmp_path: Path
) -> None:
    snapshot = download("alice/b")
    missing = sorted(path.name for path in snapshot.glob("*.safetensors"))[1]
    size = (snapshot / missing).stat().st_size
    (snapshot / missing).unlink()
    before = tree(Path(constants.HF_HUB_CACHE))
    cached.log.clear()

    plan = make_plan(read_recipe(ties("alice")), str(tmp_path / "out"), shard_size=SHARD)
    result = run_plan(plan, str(tmp_path / "out"))

    assert [model.is_cached for model in plan.models] == [True, True, False]
    assert result.read_by == ("HTTP", "cache")
    assert {exchange.path.rpartition("/")[2] for exchange in cached.log.find("HEAD")} == {missing}
    assert 0 < cached.log.bytes_out("^/lfs/") <= 3 * size
    assert weight_files(tmp_path / "out") == right
    assert tree(Path(constants.HF_HUB_CACHE)) == before


def test_an_older_commit_in_the_cache_is_not_the_model(cached: Hub, folder: Path) -> None:
    old = download("alice/a").name
    cached.put("alice/a", {"model.safetensors": folder / "base/model.safetensors"})

    assert open_checkpoint("alice/a", old).is_cached
    assert not open_checkpoint("alice/a").is_cached


def test_a_file_that_leaves_the_cache_meanwhile_is_read_over_the_network(cached: Hub, folder: Path) -> None:
    repository = find_on_hub("alice/a", None, None)
    shutil.rmtree(Path(constants.HF_HUB_CACHE))
    expected = (folder / "a/model.safetensors").read_bytes()
    buffer = bytearray(len(expected))

    repository.read_into("model.safetensors", 0, memoryview(buffer))

    assert (buffer, repository.read_by) == (expected, {"HTTP"})


def test_adapters_are_read_from_the_cache_as_well(public: Hub, folder: Path, tmp_path: Path) -> None:
    public.put("alice/lora", adapter(folder / "base", tmp_path / "lora", 1))
    for name in ("base", "lora"):
        download(f"alice/{name}")
    public.log.clear()
    merged(alone(f"{folder}/base+{tmp_path}/lora"), tmp_path / "right")

    plan = merged(alone("alice/base+alice/lora"), tmp_path / "out")

    [model] = plan.models
    assert (model.is_cached, model.adapters[0].is_cached, model.is_remote) == (True, True, False)
    assert public.log.find(path="/resolve/|^/lfs/") == []
    assert weight_files(tmp_path / "out") == weight_files(tmp_path / "right")


# -- whose files they are -----------------------------------------------------------------------------------------


@pytest.fixture
def closed(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A private and a gated model of alice in the cache, whose token brought them; tokens of alice and of bob."""
    without_pauses(monkeypatch)
    alice, bob = hub.add_user("alice"), hub.add_user("bob")
    hub.put("alice/private", folder / "a", private=True)
    hub.put("alice/gated", folder / "a", gated="manual")
    for name in ("private", "gated"):
        download(f"alice/{name}", alice)
    hub.log.clear()
    return alice, bob


def whole(name: str, token: str | bool | None) -> bytes:
    checkpoint = open_checkpoint(name, token=token, allow_folders=False)
    buffer = bytearray(checkpoint.files["model.safetensors"])
    checkpoint.read_range("model.safetensors", 0, memoryview(buffer))
    assert checkpoint.read_by == {"cache"}
    return bytes(buffer)


@pytest.mark.parametrize("space", [True, False])
def test_a_visitor_does_not_read_what_the_token_of_another_brought(
    space: bool, hub: Hub, folder: Path, closed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if space:
        monkeypatch.setenv("SPACE_ID", "you/alloy")
    alice, bob = closed
    for visitor in (bob, False):
        with pytest.raises(CheckpointError, match="alice/private was not found"):
            whole("alice/private", visitor)
        with pytest.raises(CheckpointError, match="is gated, and this login has no access"):
            whole("alice/gated", visitor)

    hub.grant("alice/gated", "bob")

    expected = (folder / "a/model.safetensors").read_bytes()
    assert whole("alice/gated", bob) == whole("alice/private", alice) == expected
    assert hub.log.bytes_out(WEIGHTS) == 0  # the Hub was asked who may read, and sent nothing


def test_a_visitor_whose_access_ended_is_refused_when_the_model_is_opened_again(
    hub: Hub, closed: tuple[str, str]
) -> None:
    alice, _ = closed
    assert whole("alice/private", alice)

    hub.revoke(alice)

    with pytest.raises(CheckpointError):
        whole("alice/private", alice)


def test_on_a_space_that_is_offline_nobody_but_its_own_login_reads_the_cache(
    closed: tuple[str, str], offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "you/alloy")

    for visitor in (*closed, False):
        with pytest.raises(CheckpointError, match="the Hub cannot be asked who may read it"):
            whole("alice/gated", visitor)
    assert whole("alice/gated", None)


# -- without a network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, False])
def test_offline_the_cached_revision_is_used(
    token: bool | None, cached: Hub, right: dict[str, bytes], offline: None, tmp_path: Path
) -> None:
    commit = download("alice/a").name

    plan = make_plan(read_recipe(ties("alice")), str(tmp_path / "out"), shard_size=SHARD, token=token)
    run_plan(plan, str(tmp_path / "out"), token=token)

    assert plan.models[1].commit == commit
    assert weight_files(tmp_path / "out") == right
    assert open_checkpoint("alice/a", commit).version == commit
    assert len(cached.log) == 0


def test_offline_what_is_not_in_the_cache_is_named(cached: Hub, offline: None) -> None:
    with pytest.raises(CheckpointError, match=r"alice/other is not in (.|\n)*Run `hf download alice/other`"):
        open_checkpoint("alice/other")
    with pytest.raises(CheckpointError, match="Revision 'v2' of alice/a is not in"):
        open_checkpoint("alice/a", "v2")
    snapshot = download("alice/b")
    first, *_ = sorted(snapshot.glob("*.safetensors"))
    first.unlink()
    with pytest.raises(CheckpointError, match=f"{first.name}, which is missing"):
        open_checkpoint("alice/b")
    assert len(cached.log) == 0


def test_a_merge_of_a_process_that_is_offline(cached: Hub, right: dict[str, bytes], tmp_path: Path) -> None:
    before = tree(Path(constants.HF_HUB_CACHE))
    (tmp_path / "recipe.yaml").write_text(ties("alice"))
    command = ["run", "recipe.yaml", "--to", "out", "--shard-size", str(SHARD)]

    done = subprocess.run(
        [sys.executable, "-m", "merging", *command],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "read by cache" in done.stdout
    assert weight_files(tmp_path / "out") == right
    assert len(cached.log) == 0
    assert tree(Path(constants.HF_HUB_CACHE)) == before

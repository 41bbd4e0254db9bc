"""The cache of ranges: fewer reads, within a limit, for those only whom the Hub lets in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.repositories.cache import PIECE, RangeCache
from merging import CheckpointError
from tests.hub import Hub
from tests.tiny import tiny_llama

CONTENT = np.random.default_rng(0).bytes(1000)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PIECE >= 1 << 20
    monkeypatch.setattr("checkpoints.repositories.cache.PIECE", 100)


class Source:
    """A file, and which ranges of it were fetched."""

    def __init__(self) -> None:
        self.fetched: list[tuple[int, int]] = []

    def __call__(self, start: int, buffer: memoryview) -> None:
        self.fetched.append((start, len(buffer)))
        buffer[:] = CONTENT[start : start + len(buffer)]


def read(cache: RangeCache, source: Source, start: int, end: int, file: str = "a") -> None:
    buffer = bytearray(end - start)
    cache.read_into(file, len(CONTENT) - 50, start, memoryview(buffer), source)
    assert buffer == CONTENT[start:end]


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_read_is_not_fetched_again(tmp_path: Path) -> None:
    source = Source()
    read(RangeCache(tmp_path, 10_000), source, 150, 310)
    assert source.fetched == [(100, 100), (200, 100), (300, 100)]

    read(RangeCache(tmp_path, 10_000), source, 100, 400)
    assert len(source.fetched) == 3
    read(RangeCache(tmp_path, 10_000), source, 390, 950)
    assert source.fetched[3:] == [(at, 100) for at in (400, 500, 600, 700, 800)] + [(900, 50)]
    read(RangeCache(tmp_path, 10_000), source, 0, 10, file="b")
    assert source.fetched[-1] == (0, 100)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: b""])
def test_a_damaged_piece_is_fetched_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    source = Source()
    for _ in range(2):
        read(RangeCache(tmp_path, 10_000), source, 0, 100)
        [piece] = tmp_path.iterdir()
        piece.write_bytes(damage(piece.read_bytes()))

    assert source.fetched == [(0, 100)] * 2


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    source = Source()
    cache = RangeCache(tmp_path, 1000)
    for number in range(30):
        read(cache, source, 0, 100, file=str(number))
        for path in tmp_path.iterdir():  # every step ages what is there
            os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
        read(cache, source, 0, 100, file="favourite")
        assert used(tmp_path) <= 1000

    assert len(source.fetched) == 31
    read(cache, source, 0, 100, file="29")
    assert len(source.fetched) == 31


def test_a_piece_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    read(RangeCache(tmp_path, 50), Source(), 0, 950)

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    read(RangeCache(tmp_path / "file" / "cache", 10_000), Source(), 0, 950)


def test_many_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        cache, random = RangeCache(tmp_path, 1500), np.random.default_rng(seed)
        try:
            for _ in range(100):
                start, end = sorted(int(x) for x in random.integers(0, 950, 2))
                read(cache, Source(), start, end, file=str(random.integers(3)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# -- with the Hub --------------------------------------------------------------------------------------------


@pytest.fixture
def model(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ALLOY_CACHE_BYTES", "100000000")
    monkeypatch.setattr("checkpoints.repositories.cache.PIECE", 1 << 20)
    return tiny_llama(tmp_path / "model", 0)


def weights(checkpoint: Checkpoint) -> bytes:
    [file] = {tensor.file for tensor in checkpoint.tensors.values()}
    buffer = bytearray(checkpoint.repository.files[file])
    checkpoint.repository.read_into(file, 0, memoryview(buffer))
    checkpoint.close()
    return bytes(buffer)


def test_the_second_reader_fetches_a_byte_a_file(model: Path, hub: Hub, tmp_path: Path) -> None:
    token = hub.add_user("alice")
    hub.put("alice/model", model, private=True)
    expected = (model / "model.safetensors").read_bytes()
    assert weights(open_checkpoint("alice/model", token=token)) == expected
    hub.log.clear()

    assert weights(open_checkpoint("alice/model", token=token)) == expected

    assert hub.log.bytes_out("^/lfs/") == 1
    pieces = list((tmp_path / "cache").rglob("*"))
    assert pieces
    assert not any(token.encode() in path.read_bytes() for path in pieces if path.is_file())


def test_a_push_is_seen(model: Path, hub: Hub, tmp_path: Path) -> None:
    token = hub.add_user("alice")
    hub.put("alice/model", model)
    weights(open_checkpoint("alice/model", token=token))
    other = tiny_llama(tmp_path / "other", 1)
    hub.put("alice/model", other)

    assert weights(open_checkpoint("alice/model", token=token)) == (other / "model.safetensors").read_bytes()


def test_nobody_gets_what_the_hub_would_not_give_them(model: Path, hub: Hub) -> None:
    alice, bob = hub.add_user("alice"), hub.add_user("bob")
    hub.put("alice/private", model, private=True)
    hub.put("alice/gated", model, gated="auto")
    for name in ("alice/private", "alice/gated"):
        weights(open_checkpoint(name, token=alice))

    for name, code in (("alice/private", "model-not-found"), ("alice/gated", "gated")):
        with pytest.raises(CheckpointError) as error:
            open_checkpoint(name, token=bob)
        assert error.value.problems[0].code == code


def test_it_is_off_unless_it_is_asked_for(
    model: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = hub.add_user("alice")
    hub.put("alice/model", model)
    for value in ("", "0"):
        monkeypatch.setenv("ALLOY_CACHE_BYTES", value)
        weights(open_checkpoint("alice/model", token=token))
    monkeypatch.delenv("ALLOY_CACHE_BYTES")
    weights(open_checkpoint("alice/model", token=token))
    assert not (tmp_path / "cache").exists()

    monkeypatch.setenv("ALLOY_CACHE_BYTES", "2GB")
    with pytest.raises(CheckpointError, match="ALLOY_CACHE_BYTES is '2GB'; it must be a number of bytes"):
        open_checkpoint("alice/model", token=token)

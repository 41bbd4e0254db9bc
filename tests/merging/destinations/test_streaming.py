"""Shards that go to the Hub through Xet while they are made: the same model as by LFS, or LFS after all, or a clear
error. The store is the loopback Hub's, and the client the real `hf_xet`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import hf_xet
import pytest
import yaml

from bench.models import Size
from bench.scale import hollow
from merging import Cancelled, DestinationError, Plan, Progress, make_plan, read_recipe, run_plan
from merging.destinations.held_shard import Stoppable
from merging.destinations.xet import EARLY, HELD, SETTINGS, UPLOADS, XetLostError, XetShard
from merging.planning.costs import peak_memory
from tests.hub import Hub
from tests.merges import STALLED, cancelled_at, merged, ties, wait_for, weight_files, weights, without_pauses

OUT = "hf://alice/out"
SIZE = 60_000  # bytes a shard: six of them
TOKEN, XORB, SHARD = ("GET", "/xet-write-token/"), ("POST", "/v1/xorbs/"), ("POST", "/v1/shards")
JOURNAL, COMMIT, UPLOAD = ("POST", "/commit/merge-"), ("POST", "/commit/main"), ("PUT", "^/upload/")


@pytest.fixture(autouse=True)
def xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    quick = {"client.retry_base_delay": "10ms", "client.retry_max_attempts": 2}
    for name, value in quick.items():
        monkeypatch.setitem(SETTINGS, name, value)
    monkeypatch.setattr("time.sleep", lambda _: None)
    without_pauses(monkeypatch)


@pytest.fixture(scope="module")
def right(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weight files that the merge is to have."""
    return made_in_folder(folder, tmp_path_factory.mktemp("right") / "out", SIZE)


def made_in_folder(folder: Path, out: Path, size: int) -> dict[str, bytes]:
    merged(ties(folder), out, size)
    return weight_files(out)


def planned(token: str, size: int = SIZE) -> Plan:
    """The plan, as a large model would have it on a small machine."""
    plan = make_plan(read_recipe(ties("alice")), OUT, token=token, shard_size=size)
    assert plan.ok
    return replace(plan, streams=True)


@pytest.mark.parametrize("size", [SIZE, 10**9])
def test_the_same_model_as_by_lfs(size: int, hub: Hub, alice: str, folder: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []

    result = run_plan(planned(alice, size), OUT, token=alice, workers=3, on_progress=seen.append)

    assert result.verified
    assert (result.read_by, result.written_by) == (("HTTP",), ("Xet",))
    assert seen[-1].message == "Read by HTTP, written by Xet"
    assert weights(hub, "alice/out") == made_in_folder(folder, tmp_path / "right", size)
    assert not hub.log.find(*UPLOAD)
    assert [*hub.repo("alice/out").refs] == ["main"]
    assert len(hub.repo("alice/out").history()) == 2


# -- faults --------------------------------------------------------------------------------------------------

HEALED = {
    "503 at the token": (TOKEN, {"status": 503, "times": 2}),
    "429 with Retry-After, at the token": (
        TOKEN,
        {"status": 429, "headers": {"Retry-After": "1"}, "times": 2},
    ),
    "500 at a piece": (XORB, {"status": 500, "skip": 1}),
    "reset at a piece": (XORB, {"reset": True, "skip": 2}),
    "503 where a file becomes known": (SHARD, {"status": 503, "skip": 1}),
    "answer lost where a file becomes known": (SHARD, {"truncate": 0}),
    "answer to a commit to the journal lost": (JOURNAL, {"truncate": 0, "skip": 2}),
    "answer to the last commit lost": (COMMIT, {"truncate": 0}),
}


@pytest.mark.parametrize("name", HEALED)
def test_healed(name: str, hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    (method, path), fault = HEALED[name]
    met = hub.fault(method, path, **fault)

    result = run_plan(planned(alice), OUT, token=alice)

    assert met.hits
    assert result.verified
    assert result.written_by == ("Xet",)
    assert weights(hub, "alice/out") == right
    assert len(hub.repo("alice/out").history()) == 2


def test_tokens_of_the_store_that_end_at_once_are_asked_for_anew(
    hub: Hub, alice: str, right: dict[str, bytes]
) -> None:
    hub.xet.ttl = 0

    assert run_plan(planned(alice), OUT, token=alice).written_by == ("Xet",)

    assert weights(hub, "alice/out") == right
    asked = hub.log.find(*TOKEN)
    assert len(asked) > len(right)  # we ask once a shard, and hf_xet for itself
    assert all(exchange.auth and exchange.status == 200 for exchange in asked)


BY_LFS = {
    "no route to a token": (TOKEN, {"status": 404}, False),
    "an answer that is none": (TOKEN, {"truncate": 5}, False),
    "a store that takes nothing": (XORB, {"status": 403}, False),
    "a store that fails from the third piece on": (XORB, {"status": 500, "skip": 2}, True),
    "a store that knows no files from the second on": (SHARD, {"reset": True, "skip": 1}, True),
    "a token that Xet does not take": (XORB, {"status": 401, "skip": 1}, True),
}


@pytest.mark.parametrize("name", BY_LFS)
def test_what_xet_does_not_take_goes_by_lfs(name: str, hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    (method, path), fault, begins = BY_LFS[name]
    hub.fault(method, path, **fault, times=None)
    seen: list[Progress] = []

    result = run_plan(planned(alice), OUT, token=alice, workers=3, on_progress=seen.append)

    assert result.verified
    assert result.written_by == (("LFS", "Xet") if begins else ("LFS",))
    assert weights(hub, "alice/out") == right
    assert 0 < len(hub.log.find(*UPLOAD)) <= len(right) - begins
    assert (seen[-1].bytes_done, seen[-1].tensors_done) == (seen[-1].bytes_total, seen[-1].tensors_total)


@pytest.mark.parametrize(("skip", "most"), [(None, 1), (0, 1), (2, 1), (10**6, 0)])
def test_in_place_of_xet_one_shard_at_a_time_is_held(
    skip: int | None,
    most: int,
    hub: Hub,
    alice: str,
    right: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan estimated the memory of a way that holds none; and then it failed, or another machine has no Xet."""
    held: list[int] = [0]

    class Counted(Stoppable):
        def __init__(self, check: Any) -> None:
            super().__init__(check)
            held.append(held[-1] + 1)

        def close(self) -> None:
            if not self.closed:
                held.append(held[-1] - 1)
            super().close()

    monkeypatch.setattr("merging.destinations.held_shard.Stoppable", Counted)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", skip is None)
    hub.fault(*XORB, status=403, skip=skip or 0, times=None)

    result = run_plan(planned(alice), OUT, token=alice, workers=4)

    assert bool(hub.log.find(*TOKEN)) == (skip is not None)
    assert ("LFS" in result.written_by) == bool(most)
    assert weights(hub, "alice/out") == right
    assert max(held) == most
    assert held[-1] == 0


def test_what_fits_neither_way_is_told_and_gone_on_with(
    hub: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault(*XORB, status=403, skip=2, times=None)
    monkeypatch.setattr("merging.destinations.hub_sink.free_memory", lambda: 10)

    with pytest.raises(DestinationError, match=r"must fit into memory, of which 10 bytes.*--shard-size"):
        run_plan(planned(alice), OUT, token=alice)

    assert weights(hub, "alice/out") == {}
    hub.clear_faults()
    hub.log.clear()
    result = run_plan(planned(alice), OUT, token=alice)
    assert weights(hub, "alice/out") == right
    assert result.written_by == ("Xet", "an earlier run")
    assert len(hub.log.find(*SHARD)) < len(right)


def test_a_run_by_lfs_goes_on_with_what_came_through_xet(
    hub: Hub, alice: str, right: dict[str, bytes]
) -> None:
    plan = planned(alice)
    hub.fault(*XORB, status=403, skip=2, times=None)
    hub.fault(*UPLOAD, status=403, times=None)
    with pytest.raises(DestinationError, match="continues from the last finished shard"):
        run_plan(plan, OUT, token=alice)
    hub.clear_faults()
    hub.log.clear()

    result = run_plan(replace(plan, streams=False), OUT, token=alice)

    assert result.written_by == ("LFS", "an earlier run")
    assert weights(hub, "alice/out") == right
    assert len(hub.log.find(*UPLOAD)) < len(right)


@pytest.mark.parametrize(("method", "path", "skip"), [(*XORB, 2), (*SHARD, 1), (*TOKEN, 1)])
def test_cancel_is_quick_and_leaves_nothing(method: str, path: str, skip: int, hub: Hub, alice: str) -> None:
    """Even while the store stalls, which hf_xet itself would wait out."""
    fault = hub.fault(method, path, delay=STALLED, skip=skip, times=None)
    before = {*threading.enumerate()}

    cancelled_at(fault, planned(alice), OUT, alice)

    assert "alice/out" not in hub.repos
    if path != TOKEN[1]:  # that request is not hf_xet's
        wait_for(lambda: {thread.name for thread in {*threading.enumerate()} - before} <= {"hub"})


def test_other_bytes_in_the_store_are_not_named_in_a_commit(
    hub: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = XetShard._send

    def wrong(self: XetShard, data: bytes) -> None:
        send(self, data)
        if self._next > 1000:
            self._digest.update(b"what the store did not get")

    monkeypatch.setattr(XetShard, "_send", wrong)

    result = run_plan(planned(alice), OUT, token=alice)

    assert result.written_by == ("LFS",)
    assert weights(hub, "alice/out") == right


# -- the order of bytes, and their number --------------------------------------------------------------------


class Stream:
    """Takes bytes in place of hf_xet."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> None:
        self.content += data


def shard_to(stream: Any, check: Any = lambda: None) -> XetShard:
    return XetShard(None, stream, check, lambda _: None)


def test_bytes_that_come_early_wait_for_those_before_them() -> None:
    stream = Stream()
    shard = shard_to(stream)
    content = bytes(range(256)) * 100
    pieces = [(start, content[start : start + 1000]) for start in range(0, len(content), 1000)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda piece: shard.write(piece[0], memoryview(piece[1])), pieces[::-1]))

    assert stream.content == content


def test_who_brings_too_many_bytes_early_waits_and_hears_of_a_stop() -> None:
    stream = Stream()
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Cancelled

    shard = shard_to(stream, check)
    half = bytes(EARLY // 2)
    shard.write(10, memoryview(half))
    shard.write(10 + len(half), memoryview(half))
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(shard.write, 10 + 2 * len(half), memoryview(b"end"))
        assert not stream.content
        assert not late.done()
        shard.write(0, memoryview(bytes(10)))
        late.result()
        assert len(stream.content) == 10 + EARLY + 3
        shard.write(20 + EARLY, memoryview(bytes(EARLY)))
        stop.set()
        with pytest.raises(Cancelled):
            shard.write(20 + 2 * EARLY, memoryview(b"more"))


def test_a_lost_shard_takes_the_rest_and_says_so_at_its_end() -> None:
    class Broken(Stream):
        def write(self, data: bytes) -> None:
            raise ConnectionError("gone")

    shard = shard_to(Broken())
    shard.write(100, memoryview(b"early"))
    shard.write(0, memoryview(bytes(100)))
    shard.write(10**9, memoryview(bytes(EARLY + 1)))
    with pytest.raises(XetLostError, match="ConnectionError"):
        shard.finish()
    assert shard.is_over


def test_the_way_is_chosen_by_memory(hub: Hub, tmp_path: Path) -> None:
    """By LFS, which is quicker, where two files fit beside the rest; else through Xet, which holds neither."""
    alice = hub.add_user("alice")
    names = [hollow(Size(4096, 14336, 6, 32, 8, 32_000), tmp_path / name) for name in "ab"]
    models = [{"model": str(name), "parameters": {"weight": 0.5}} for name in names]
    recipe = read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models}))

    def plan(to: str, memory: int) -> Plan:
        return make_plan(recipe, to, token=alice, memory=memory)

    roomy = plan(OUT, 10**12)
    assert not roomy.streams
    assert not plan(OUT, roomy.peak_memory_bytes).streams
    tight = plan(OUT, roomy.peak_memory_bytes - 1)
    assert tight.streams
    assert Plan.from_json(tight.to_json()).streams
    sizes = sorted(shard.bytes for shard in tight.shards)
    assert roomy.peak_memory_bytes - tight.peak_memory_bytes == sum(sizes[-2:]) - HELD
    assert tight.peak_memory_bytes == peak_memory(tight, HELD) < 1_000_000_000
    assert not plan(str(tmp_path / "out"), 0).streams


def test_hf_xet_takes_the_bounds() -> None:
    config = hf_xet.XetConfig().with_config(SETTINGS)

    assert config.get("client.ac_max_upload_concurrency") == UPLOADS
    for name in SETTINGS:
        assert config.get(name) != hf_xet.XetConfig().get(name)

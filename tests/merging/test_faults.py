"""What can go wrong on the way, one by one. Each ends with the right bytes or with a clear error; never with a wrong
model, and never with half of one."""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import signal
import socket
import ssl
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from merging import Cancelled, MergeError, Progress, make_plan, read_recipe, run_plan
from merging.destinations.xet import SETTINGS
from tests.hub import Hub
from tests.merges import (
    STALLED,
    Run,
    files,
    merged,
    noted,
    ties,
    wait_for,
    weight_files,
    weights,
    without_pauses,
)
from tests.tiny import tiny_llama

OUT = "hf://alice/out"
SIZE = 60_000  # bytes a shard: six of them


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    without_pauses(monkeypatch)


@pytest.fixture(scope="module")
def right(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weight files that the merge is to have."""
    out = tmp_path_factory.mktemp("right") / "out"
    merged(ties(folder), out, SIZE)
    return weight_files(out)


def outcome(hub: Hub, token: str, right: dict[str, bytes], **options: Any) -> str:
    """Plan and run the merge: "" if it has the right bytes, else what was told, and then nothing is to be seen."""
    try:
        plan = make_plan(read_recipe(ties("alice")), OUT, token=token, shard_size=SIZE)
        result = run_plan(plan, OUT, token=token, **options)
    except MergeError as error:
        assert token not in str(error)
        assert weights(hub, "alice/out") == {}
        return str(error)
    assert result.verified
    assert weights(hub, "alice/out") == right
    return ""


# -- what heals by itself ------------------------------------------------------------------------------------

WEIGHTS = ("GET", "^/lfs/alice/(base|a|b)/")
FACTS = ("GET", "^/api/models/alice/(base|a|b)")
ADDRESS = ("HEAD", "/resolve/")
TARGET = ("GET", "^/api/models/alice/out")
CREATE = ("POST", "^/api/repos/create")
BRANCH = ("POST", "/branch/")
UPLOAD = ("PUT", "^/upload/")
XORB = ("POST", "/v1/xorbs/")  # what Xet is sent, see test_streaming.py for its own faults
BATCH = ("POST", "/objects/batch")
JOURNAL = ("POST", "/commit/merge-")
COMMIT = ("POST", "/commit/main")
WAIT_1 = {"headers": {"Retry-After": "1"}}

HEALED = {
    "429 with Retry-After, at a model": (FACTS, {"status": 429, **WAIT_1, "times": 2}),
    "429 with Retry-After, at the address of a file": (ADDRESS, {"status": 429, **WAIT_1, "times": 2}),
    "429 with Retry-After, at an upload": (BATCH, {"status": 429, **WAIT_1, "times": 2}),
    "429 with Retry-After, at the last commit": (COMMIT, {"status": 429, **WAIT_1, "times": 2}),
    "429 without, at a model": (FACTS, {"status": 429, "times": 2}),
    "429 without, at the address of a file": (ADDRESS, {"status": 429, "times": 2}),
    "429 without, at the making of the repository": (CREATE, {"status": 429, "times": 2}),
    "429 without, at the last commit": (COMMIT, {"status": 429, "times": 2}),
    "500 at the weights": (WEIGHTS, {"status": 500, "times": 4, "skip": 3}),
    "502 at the weights": (WEIGHTS, {"status": 502, "times": 4}),
    "503 at the weights": (WEIGHTS, {"status": 503, "times": 4, "skip": 7}),
    "500 at an upload": (UPLOAD, {"status": 500, "times": 2}),
    "502 at a commit to the journal": (JOURNAL, {"status": 502, "times": 2, "skip": 1}),
    "503 at the last commit": (COMMIT, {"status": 503, "times": 2}),
    "503 at the branch": (BRANCH, {"status": 503, "times": 2}),
    "503 at the target": (TARGET, {"status": 503, "times": 2}),
    "403 on expired links to weights": (WEIGHTS, {"status": 403, "times": 3, "skip": 5}),
    "403 on an expired link for an upload": (UPLOAD, {"status": 403, "times": 1, "skip": 2}),
    "truncated weights": (WEIGHTS, {"truncate": 100, "times": 4, "skip": 3}),
    "reset while reading": (WEIGHTS, {"reset": True, "times": 3, "skip": 4}),
    "reset while uploading": (UPLOAD, {"reset": True, "times": 1}),
    "reset at a commit to the journal": (JOURNAL, {"reset": True, "times": 1}),
    "reset at the last commit": (COMMIT, {"reset": True, "times": 1}),
    "answer to the making of the repository lost": (CREATE, {"truncate": 0, "times": 1}),
    "answer to a commit to the journal lost": (JOURNAL, {"truncate": 0, "times": 1, "skip": 2}),
    "answer to the last commit lost": (COMMIT, {"truncate": 0, "times": 1}),
}


@pytest.mark.parametrize("name", HEALED)
def test_healed(name: str, hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    (method, path), fault = HEALED[name]
    met = hub.fault(method, path, **fault)

    assert outcome(hub, alice, right) == ""

    assert met.hits == fault["times"]
    assert len(hub.repo("alice/out").history()) == 2  # its birth, and one commit: none is doubled


def test_links_that_expire_again_and_again(hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    rounds = iter([True] * 4)

    def expire(progress: Progress) -> None:
        if progress.phase == "merge" and next(rounds, False):
            hub.expire_links()

    assert outcome(hub, alice, right, on_progress=expire) == ""


def test_a_host_that_stalls_while_it_takes_a_shard(
    hub: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.destinations.hub_sink.TIMEOUT", httpx2.Timeout(2))
    met = hub.fault(*UPLOAD, delay=STALLED, times=1)

    assert outcome(hub, alice, right) == ""
    assert met.hits == 1


def test_a_host_that_stalls_while_it_sends_weights(
    hub: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoints.repositories.hub.READ_TIMEOUT", 2.0)
    met = hub.fault(*WEIGHTS, stall=100, times=2, skip=4)

    assert outcome(hub, alice, right) == ""
    assert met.hits == 2


REFUSALS = {
    "connections": ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    "names": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refused_for_a_while(
    what: str, hub: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, refused = socket.create_connection, []

    def refuse(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
        if address[0] == "localhost" and len(refused) < 4:  # the host of the weights, and of the uploads
            refused.append(address)
            raise REFUSALS[what]
        return connect(address, *rest, **more)

    monkeypatch.setattr(socket, "create_connection", refuse)

    assert outcome(hub, alice, right) == ""
    assert len(refused) == 4


# -- what is told --------------------------------------------------------------------------------------------

TOLD = {
    "weights that cannot be read": (
        WEIGHTS,
        {"status": 500, "skip": 12},
        r"model.*safetensors could not be read \(status 500\)",
    ),
    "another range than was asked for": (
        WEIGHTS,
        {"headers": {"Content-Range": "bytes 0-9/10"}, "skip": 12},
        "Asked for bytes|could not be read",
    ),
    "a repository that may not be made": (CREATE, {"status": 403}, r"did not take the result \(status 403\)"),
    "a push that is refused": (COMMIT, {"status": 403}, r"did not take the result \(status 403\)"),
    "a Hub that stays away": (COMMIT, {"status": 503}, r"did not take the result \(status 503\)"),
}


@pytest.mark.parametrize("name", TOLD)
def test_told_and_made_good_by_running_again(
    name: str, hub: Hub, alice: str, right: dict[str, bytes]
) -> None:
    (method, path), fault, sentence = TOLD[name]
    met = hub.fault(method, path, **fault, times=None)

    with pytest.raises(AssertionError, match=sentence):
        assert outcome(hub, alice, right) == ""

    assert met.hits
    hub.clear_faults()
    assert outcome(hub, alice, right) == ""


def test_a_range_that_is_wrong_once(hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    hub.fault(*WEIGHTS, headers={"Content-Range": "bytes 0-9/10"}, skip=12)

    told = outcome(hub, alice, right)

    assert told == "" or "Asked for bytes" in told


def test_a_token_that_is_revoked_in_the_middle(hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    def revoke(progress: Progress) -> None:
        if alice in hub.store.tokens and len(hub.log.find("POST", "/commit/merge-")) >= 2:
            hub.revoke(alice)

    told = outcome(hub, alice, right, on_progress=revoke)

    # Who meets it first, the upload or a read, is a matter of moments.
    assert "status 401" in told or "no longer" in told
    hub.log.clear()
    assert outcome(hub, hub.add_user("alice"), right) == ""
    assert len(hub.log.find(*UPLOAD)) < len(right)


def test_somebody_else_makes_the_repository_in_between(hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    """A model of theirs is not touched, and a public repository does not get what was to be private."""
    for content, told in (
        ({"config.json": b"{}"}, "holds a model|by someone else"),
        ({}, "by someone else"),
    ):

        def race(progress: Progress, content: dict[str, bytes] = content) -> None:
            if "alice/out" not in hub.repos:
                hub.put("alice/out", content)

        with pytest.raises(AssertionError, match=told):
            assert outcome(hub, alice, right, on_progress=race) == ""
        assert {*hub.repo("alice/out").files()} == {".gitattributes", *content}
        assert [*hub.repo("alice/out").refs] == ["main"]
        hub.store.delete("alice/out")


def test_somebody_else_pushes_to_the_target_in_between(hub: Hub, alice: str, right: dict[str, bytes]) -> None:
    def race(progress: Progress) -> None:
        if progress.phase == "finish":
            hub.put("alice/out", {"notes.md": b"mine"})

    told = outcome(hub, alice, right, on_progress=race)

    assert "was changed by someone else" in told
    assert {*hub.repo("alice/out").files()} == {".gitattributes", "notes.md"}


def test_a_model_that_stands_there_survives_a_push_that_fails(hub: Hub, alice: str) -> None:
    hub.put("alice/out", {"model.safetensors": b"old", "config.json": b"{}"})
    plan = make_plan(read_recipe(ties("alice")), token=alice)
    hub.fault(*COMMIT, status=403, times=None)

    with pytest.raises(MergeError):
        run_plan(plan, OUT, token=alice, overwrite=True)

    assert hub.read("alice/out", "model.safetensors") == b"old"


def test_a_disk_that_has_no_room_for_a_shard_says_so_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    with pytest.raises(MergeError, match="The disk is full"):
        merged(ties(folder), tmp_path / "out", SIZE)

    assert not (tmp_path / "out").exists()


def test_a_file_system_that_cannot_reserve_room_is_written_to_all_the_same(
    folder: Path, tmp_path: Path, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    merged(ties(folder), tmp_path / "out", SIZE)

    assert {name: data for name, data in files(tmp_path / "out").items() if name in right} == right


@pytest.mark.parametrize("writes", [0, 5])
def test_a_disk_that_is_full(
    writes: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, pwrite = [writes], os.pwrite

    def fill(descriptor: int, data: memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fill)

    with pytest.raises(MergeError, match="The disk is full"):
        merged(ties(folder), tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


# -- killed --------------------------------------------------------------------------------------------------

POINTS = {
    "while planning": (FACTS, 1),
    "at the first header": (WEIGHTS, 0),
    "in the weights": (WEIGHTS, 12),
    "before the repository is made": (CREATE, 0),
    "before the journal is opened": (BRANCH, 0),
    "before the first shard is up": (UPLOAD, 0),
    "before the first shard is noted down": (JOURNAL, 0),
    "in the third shard": (UPLOAD, 2),
    "before the fifth shard is noted down": (UPLOAD, 4),
    "before the last commit": (COMMIT, 0),
    "after the last commit": (("DELETE", "/branch/"), 0),
    "by Xet: before the first piece": (XORB, 0),
    "by Xet: before the third shard is one": (("POST", "/v1/shards"), 2),
    "by Xet: before the fourth shard is noted down": (("POST", "/v1/shards"), 3),
}
# Shards that the journal has by then. One commit notes all that have arrived, so commits cannot be counted.
NOTED = {"before the fifth shard is noted down": 4, "by Xet: before the fourth shard is noted down": 3}


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again(
    point: str, tmp_path: Path, hub: Hub, alice: str, right: dict[str, bytes]
) -> None:
    (method, path), skip = POINTS[point]
    (tmp_path / "recipe.yaml").write_text(ties("alice"))
    stalled = hub.fault(method, path, delay=STALLED, skip=skip, times=None)

    run = Run(
        [str(tmp_path / "recipe.yaml"), "--to", OUT, "--shard-size", str(SIZE)], alice, streams="Xet" in point
    )
    wait_for(lambda: stalled.hits > 0 and len(noted(hub)) >= NOTED.get(point, 0))
    run.send_signal(signal.SIGKILL)
    assert run.end()[0] == -signal.SIGKILL

    seen = weights(hub, "alice/out")
    assert seen == (right if point == "after the last commit" else {})
    kept = noted(hub)
    assert len(kept) == NOTED.get(point, len(kept))
    hub.clear_faults()
    hub.log.clear()
    # After the last commit the journal is left, and the model is there: a run that may not overwrite anything finds
    # that it is its own, has nothing more to do, and removes the journal.
    assert not seen or kept
    assert outcome(hub, alice, right) == ""
    assert len(hub.log.find(*UPLOAD)) <= len(right) - len(kept)
    assert len(hub.repo("alice/out").history()) == 2
    assert [*hub.repo("alice/out").refs] == ["main"]


# -- all of it, many times -----------------------------------------------------------------------------------


def test_soak(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 small merges with random faults, some of which cannot be healed, and some cancelled: nothing piles up. To
    a folder, and to the Hub by LFS and (a tenth) through Xet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setitem(SETTINGS, "client.retry_base_delay", "10ms")
    monkeypatch.setitem(SETTINGS, "client.retry_max_attempts", 2)
    # Certificates are no matter on loopback, and loading them takes a third of the time.
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    alice = hub.add_user("alice")
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    for seed, name in enumerate(("base", "a", "b")):
        tiny_llama(tmp_path / "models" / name, seed, **small)
        hub.put(f"alice/{name}", tmp_path / "models" / name)
    merged(ties(tmp_path / "models"), tmp_path / "right", 2000)
    right = weight_files(tmp_path / "right")
    plan = make_plan(read_recipe(ties("alice")), token=alice, shard_size=2000)
    assert len(plan.shards) == len(right) > 2
    chance = random.Random(0)
    ends = {"right": 0, "told": 0, "cancelled": 0}

    def once(number: int) -> None:
        hub.clear_faults()
        hub.log.clear()
        for (method, path), fault in chance.choices(list(HEALED.values()), k=chance.choice((0, 1, 2))):
            hub.fault(method, path, **{**fault, "skip": chance.randrange(4)})
        if chance.random() < 0.15:
            hub.fault(
                *chance.choice((WEIGHTS, UPLOAD, JOURNAL)),
                status=403,
                skip=chance.randrange(8),
                times=None,
            )
        if number % 20 == 1:
            hub.fault(*XORB, status=403, skip=2, times=None)
        if number % 40 == 1:  # neither way to the Hub, then
            hub.fault(*UPLOAD, status=403, times=None)
        if number % 10 == 3:  # a parent is closed; Xet heals a closed address of weights
            hub.fault(*FACTS, status=403, times=None)
        cancel = threading.Event()
        countdown = chance.choice((1, 2, 3)) if chance.random() < 0.1 else 10**6

        def watch(progress: Progress) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown <= 0:
                cancel.set()

        to = tmp_path / "out" if number % 2 == 0 else OUT
        try:
            streaming = replace(plan, streams=number % 10 == 1)
            run_plan(streaming, str(to), token=alice, workers=3, on_progress=watch, cancel=cancel)
        except MergeError as error:
            ends["cancelled" if isinstance(error, Cancelled) else "told"] += 1
            assert not (tmp_path / "out").exists()
            assert weights(hub, "alice/out") == {}
            return
        ends["right"] += 1
        got = files(tmp_path / "out") if to != OUT else weights(hub, "alice/out")
        assert {name: got.get(name) for name in right} == right
        if to != OUT:
            shutil.rmtree(to)
        else:
            hub.store.delete("alice/out")

    def held() -> tuple[int, int, int]:
        """Threads (those of libraries too), open files and sockets, and bytes of memory."""
        gc.collect()
        process = psutil.Process()
        return process.num_threads(), process.num_fds(), process.memory_info().rss

    for number in range(40):
        once(number)
    before = held()
    for number in range(40, 200):
        once(number)
    hub.clear_faults()
    # Sockets of aborted requests close a moment later, and threads that were told to stop end a moment later; sockets
    # that both ends keep for the next request come and go.
    wait_for(lambda: held()[0] <= before[0] + 2 and held()[1] <= before[1] + 10)

    assert ends["right"] > 100
    assert ends["told"] > 10
    assert ends["cancelled"] > 5
    assert held()[2] < before[2] + 30_000_000
    assert [*(tmp_path / "temporary").iterdir()] == []
    assert {path.name for path in tmp_path.iterdir()} == {"models", "right", "temporary"}

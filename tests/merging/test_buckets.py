"""Merges from buckets of the Hub and into them."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from checkpoints.names import bucket_place
from checkpoints.object_store import ObjectStoreError
from checkpoints.repositories import open_repository
from checkpoints.repositories.hub import HubRepository
from evaluation.error import EvaluationError
from evaluation.model_files import find_model
from merging import (
    Cancelled,
    CheckpointError,
    DestinationError,
    Plan,
    Progress,
    make_plan,
    read_recipe,
    run_plan,
)
from merging.destinations import bucket, open_destination
from merging.destinations.bucket_files import LINES, BucketFiles
from merging.destinations.bucket_sink import ATTEMPTS
from merging.destinations.xet import XetLostError, XetShard
from tests.hub import Hub
from tests.merges import files, merged, ties
from tests.merging.test_object_stores import of_places, without_names

SIZE = 60_000
MODELS, TO = "hf://buckets/alice/models", "hf://buckets/alice/out/merged"
BATCH = "/api/buckets/alice/out/batch"


@pytest.fixture
def stored(hub: Hub, alice: str, folder: Path) -> Hub:
    """A Hub with the three models in a private bucket."""
    for name in ("base", "a", "b"):
        found = {f"{name}/{path}": data for path, data in files(folder / name).items()}
        hub.put_in_bucket("alice/models", found, private=True)
    return hub


@pytest.fixture
def right(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """What the merge of folders is."""
    merged(ties(folder), tmp_path / "right", SIZE)
    return without_names(files(tmp_path / "right"))


def found(hub: Hub, folder: str = "merged") -> dict[str, bytes]:
    """All that is in a folder of the bucket with the result, hidden files too."""
    there = hub.bucket_files("alice/out") or {}
    return {
        path.removeprefix(f"{folder}/"): data for path, data in there.items() if path.startswith(f"{folder}/")
    }


def planned(token: str, to: str = TO, models: str = MODELS, *, overwrite: bool = False) -> Plan:
    plan = make_plan(read_recipe(ties(models)), to, shard_size=SIZE, token=token, overwrite=overwrite)
    assert plan.problems == ()
    return plan


def test_from_a_bucket_and_the_hub_to_a_bucket(
    stored: Hub, alice: str, folder: Path, right: dict[str, bytes]
) -> None:
    text = of_places(f"{MODELS}/base", "alice/a", f"{MODELS}/b")
    plan = make_plan(read_recipe(text), TO, shard_size=SIZE, token=alice)

    result = run_plan(plan, TO, token=alice)

    assert without_names(found(stored)) == right
    assert (result.location, result.verified, result.commit) == (TO, True, None)
    assert result.url == f"{stored.endpoint}/buckets/alice/out/tree/merged"
    assert result.written_by == ("Xet",)
    assert stored.store.buckets["alice/out"].private
    assert [bool(model.commit) for model in plan.models if model.name == "alice/a"] == [True]
    card = found(stored)["README.md"].decode()
    assert f"| `{MODELS}/base` | |" in card
    assert "base_model:\n- alice/a\nbase_model_relation" in card


def test_one_request_shows_all_files(stored: Hub, alice: str, right: dict[str, bytes]) -> None:
    plan = planned(alice)
    shown: list[set[str]] = []
    change = BucketFiles.change

    def watched(self: BucketFiles, *lines: object) -> None:
        change(self, *lines)
        shown.append({name for name in found(stored) if not name.startswith(".")})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BucketFiles, "change", watched)
        run_plan(plan, TO, token=alice)

    assert next(names for names in shown if names) == {*right, "README.md", "mergekit_config.yml"}


def test_the_whole_bucket_can_be_the_place(stored: Hub, alice: str, right: dict[str, bytes]) -> None:
    to = "hf://buckets/alice/out"
    result = run_plan(planned(alice, to), to, token=alice, private=False)

    assert without_names(stored.bucket_files("alice/out") or {}) == right
    assert result.url == f"{stored.endpoint}/buckets/alice/out"
    assert not stored.store.buckets["alice/out"].private


def test_a_run_that_died_continues(
    stored: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, arrived = XetShard.finish, []

    def dies(self: XetShard) -> object:
        if len(arrived) >= 3:
            raise ValueError("a defect")
        arrived.append(finish(self))
        return arrived[-1]

    monkeypatch.setattr(XetShard, "finish", dies)
    with pytest.raises(ValueError, match="a defect"):
        run_plan(planned(alice), TO, token=alice, workers=1)
    monkeypatch.setattr(XetShard, "finish", finish)
    assert {name for name in found(stored) if not name.startswith(".")} == set()

    result = run_plan(planned(alice), TO, token=alice)

    assert without_names(found(stored)) == right
    assert result.written_by == ("Xet", "an earlier run")


def test_a_run_that_died_after_its_last_request_continues(
    stored: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = bucket.BucketDestination._publish

    def dies(self: bucket.BucketDestination, old: set[str]) -> None:
        publish(self, old)
        raise ValueError("a defect")

    monkeypatch.setattr(bucket.BucketDestination, "_publish", dies)
    with pytest.raises(ValueError, match="a defect"):
        run_plan(planned(alice), TO, token=alice)
    monkeypatch.undo()

    result = run_plan(planned(alice), TO, token=alice)

    assert without_names(found(stored)) == right
    assert result.written_by == ("an earlier run",)


def cancel_in_the_middle(alice: str) -> None:
    """A run that is cancelled when a tensor is made."""
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        run_plan(
            planned(alice),
            TO,
            token=alice,
            cancel=cancel,
            on_progress=lambda p: p.tensors_done and cancel.set(),
        )


def test_a_cancelled_run_leaves_nothing(stored: Hub, alice: str) -> None:
    cancel_in_the_middle(alice)

    assert "alice/out" not in stored.store.buckets


def test_a_cancelled_run_leaves_what_was_there(stored: Hub, alice: str) -> None:
    stored.put_in_bucket("alice/out", {"other/config.json": b"{}"}, private=True)
    cancel_in_the_middle(alice)

    assert stored.bucket_files("alice/out") == {"other/config.json": b"{}"}


@pytest.mark.parametrize("lines", [LINES, 1])
def test_a_model_is_replaced_only_if_asked_and_then_whole(
    lines: int,
    stored: Hub,
    alice: str,
    right: dict[str, bytes],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where one request does not take all lines, the old config goes first and the new one comes last."""
    monkeypatch.setattr("merging.destinations.bucket_files.LINES", lines)
    monkeypatch.setattr(bucket, "LINES", lines)
    old = {**files(folder / "b"), "model-00001-of-00009.safetensors": b"old", "notes.txt": b"mine"}
    stored.put_in_bucket("alice/out", {f"merged/{name}": data for name, data in old.items()}, private=True)
    refused = make_plan(read_recipe(ties(MODELS)), TO, token=alice).problems
    assert [problem.code for problem in refused] == ["destination-exists"]
    plan = planned(alice, overwrite=True)
    seen: list[dict[str, bytes]] = []

    def look(progress: Progress) -> None:
        if progress.phase == "upload":  # all shards have arrived
            seen.append({name: data for name, data in found(stored).items() if not name.startswith(".")})

    run_plan(plan, TO, token=alice, overwrite=True, on_progress=look)

    assert seen
    assert all(each == old for each in seen)
    assert without_names(found(stored)) == {**right, "notes.txt": b"mine"}


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "times": 3},
        {"truncate": 0, "times": 2},  # done, and the answer is lost
        {"reset": True, "times": 2},
    ],
)
def test_requests_that_fail_for_a_while(
    fault: dict[str, int], stored: Hub, alice: str, right: dict[str, bytes]
) -> None:
    stored.fault("POST", BATCH, **fault)
    last = stored.fault("POST", BATCH, skip=4, **fault)

    run_plan(planned(alice), TO, token=alice)

    assert last.hits
    assert without_names(found(stored)) == right


def test_a_bucket_that_takes_no_more(stored: Hub, alice: str) -> None:
    plan = planned(alice)
    stored.fault("POST", BATCH, status=403, skip=3, times=None)

    with pytest.raises(DestinationError) as caught:
        run_plan(plan, TO, token=alice)

    [problem] = caught.value.problems
    assert (problem.code, problem.values) == ("bucket-push-failed", {"address": TO, "reason": "status 403"})


def test_lines_that_are_refused(stored: Hub, alice: str) -> None:
    destination = open_destination(TO, token=alice)
    destination.begin(planned(alice), lambda: None)
    with pytest.raises(ObjectStoreError, match="refused: merged/x"):
        destination._bucket.change({"x": "2" * 64, "config.json": "1" * 64}, ())  # type: ignore[attr-defined]
    destination._bucket.delete(["was/never/there"])  # type: ignore[attr-defined]
    destination.abandon(keep=False)


@pytest.mark.parametrize("losses", [1, ATTEMPTS])
def test_shards_that_xet_loses(
    losses: int, stored: Hub, alice: str, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made again, and given up after some attempts."""
    finish, lost = XetShard.finish, []

    def loses(self: XetShard) -> object:
        arrived = finish(self)
        if len(lost) < losses:
            lost.append(arrived)
            raise XetLostError("Xet: lost")
        return arrived

    monkeypatch.setattr(XetShard, "finish", loses)
    # One file, so that the losses are all of the same one.
    plan = make_plan(read_recipe(ties(MODELS)), TO, token=alice)
    assert len(plan.shards) == 1
    if losses < ATTEMPTS:
        assert run_plan(plan, TO, token=alice).verified
        return
    with pytest.raises(DestinationError) as caught:
        run_plan(plan, TO, token=alice)
    assert [problem.code for problem in caught.value.problems] == ["bucket-push-failed"]
    assert "alice/out" not in stored.store.buckets


def test_a_public_bucket_takes_what_is_public_alone(stored: Hub, alice: str) -> None:
    stored.put_in_bucket("alice/out", {"other/config.json": b"{}"})

    problems = make_plan(read_recipe(ties(MODELS)), TO, token=alice).problems
    assert [problem.code for problem in problems] == ["bucket-public"]
    with pytest.raises(DestinationError):
        open_destination(TO, token=alice).begin(Plan("", ""), lambda: None)
    assert open_destination(TO, token=alice, private=False).check() == []


def test_buckets_are_open_to_strangers_with_their_own_token(stored: Hub, alice: str) -> None:
    """They are not read with what the server may do: another visitor's models are not found."""
    bob = stored.add_user("bob")
    names = f"{MODELS}/a"

    assert "config.json" in open_repository(names, None, alice, False).files
    assert find_model(names, token=alice, allow_folders=False).commit is None
    assert open_destination(TO, token=alice, allow_folders=False).check() == []
    for token in (bob, False):
        with pytest.raises(CheckpointError) as read:
            open_repository(names, None, token, False)
        with pytest.raises(EvaluationError) as judged:
            find_model(names, token=token, allow_folders=False)
        assert [error.value.problems[0].code for error in (read, judged)] == ["model-not-found"] * 2
    assert [p.code for p in open_destination(TO, token=bob).check()] == ["not-yours"]
    assert [p.code for p in open_destination(TO, token=False).check()] == ["no-login"]


def test_a_model_that_changes_is_not_read_on(stored: Hub, alice: str) -> None:
    with closing(open_repository(f"{MODELS}/a", None, alice, False)) as repository:
        stored.put_in_bucket("alice/models", {"a/config.json": b" " * repository.files["config.json"]})
        with pytest.raises(CheckpointError) as caught:
            repository.read_into("config.json", 0, memoryview(bytearray(2)))

    assert [problem.code for problem in caught.value.problems] == ["model-changed"]


def test_links_that_fail_are_left_for_xet(
    stored: Hub, alice: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    stored.fault("GET", "^/lfs/", status=503, times=None)
    with closing(open_repository(f"{MODELS}/a", None, alice, False)) as repository:
        assert isinstance(repository, HubRepository)
        buffer = bytearray(repository.files["model.safetensors"])
        repository.read_into("model.safetensors", 0, memoryview(buffer))

    assert buffer == files(folder / "a")["model.safetensors"]
    assert repository.read_by == {"Xet"}


def test_one_file_of_weights(stored: Hub, alice: str) -> None:
    stored.put_in_bucket("alice/models", {"loose/adapter.safetensors": b"12345", "loose/other.bin": b"1"})
    address = f"{MODELS}/loose/adapter.safetensors"

    with closing(open_repository(address, None, alice, False)) as repository:
        assert dict(repository.files) == {"adapter.safetensors": 5}
        buffer = bytearray(5)
        repository.read_into("adapter.safetensors", 0, memoryview(buffer))
        assert buffer == b"12345"


def test_nothing_there(stored: Hub, alice: str) -> None:
    for name, code in (
        (f"{MODELS}/none", "not-in-store"),
        ("hf://buckets/alice/none", "model-not-found"),
        ("hf://buckets/alice", "bucket-address"),
        (f"{MODELS}/../secret", "bucket-address"),
        (f"{MODELS}/.alloy/x", "bucket-address"),
    ):
        with pytest.raises(CheckpointError) as caught:
            open_repository(name, None, alice, False)
        assert [problem.code for problem in caught.value.problems] == [code]
    with pytest.raises(CheckpointError, match="no revisions"):
        open_repository(f"{MODELS}/a", "main", alice, False)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("hf://buckets/owner/name", ("owner/name", "")),
        ("hf://buckets/owner/name/a/b.c", ("owner/name", "a/b.c")),
        ("hf://buckets/owner/name/", None),
        ("hf://buckets/owner/name//a", None),
        ("hf://buckets/owner/na me", None),
        ("hf://buckets/owner/name/a?b", None),
        ("hf://buckets/owner/name@main", None),
        ("hf://owner/name", None),
    ],
)
def test_addresses(address: str, place: tuple[str, str] | None) -> None:
    assert bucket_place(address) == place


def test_evaluation_downloads_a_model_once(
    stored: Hub, alice: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.put_in_bucket("alice/models", {"b/evil.py": b"print('no')", "b/sub/other.safetensors": b"no"})
    place = find_model(f"{MODELS}/b", token=alice).fetch()

    assert files(place) == files(folder / "b")
    monkeypatch.setattr("evaluation.store_downloads._download", None)
    assert find_model(f"{MODELS}/b", token=alice).fetch() == place
    with pytest.raises(EvaluationError) as caught:
        find_model(MODELS, token=alice)
    assert [problem.code for problem in caught.value.problems] == ["no-config"]


def test_the_token_is_in_no_error_log_or_repr(
    stored: Hub, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plan = planned(alice)
    stored.fault("POST", "/api/buckets/", status=500, times=None)
    attempts: list[Callable[[], object]] = [
        lambda: run_plan(plan, TO, token=alice),
        lambda: open_repository("hf://buckets/alice/none", None, alice, False),
    ]
    texts = []
    for attempt in attempts:
        with pytest.raises((CheckpointError, DestinationError)) as caught:
            attempt()
        texts.append("".join(traceback.format_exception(caught.value)))
    sink = open_destination(TO, token=alice).sink
    texts += [repr(sink.to_data()), caplog.text]

    assert "status 500" in texts[0]
    assert not [text for text in texts if alice in text]

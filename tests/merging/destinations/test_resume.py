"""The journal of a merge to the Hub: what a run that died leaves, what the next one makes of it, what a stop undoes."""

from __future__ import annotations

import hashlib
import io
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from merging import (
    Cancelled,
    CheckpointError,
    DestinationError,
    Plan,
    Problem,
    Progress,
    make_plan,
    read_recipe,
    run_plan,
)
from merging.destinations.held_shard import HeldShard, Stoppable
from merging.destinations.hub_sink import HubSink
from merging.engine.prefetch import GAP
from merging.engine.tensors import merge_tensor
from merging.engine.threads import ThreadPool
from merging.plan import PlannedTensor
from tests.hub import Hub
from tests.merges import (
    SOON,
    STALLED,
    Run,
    cancelled_at,
    merged,
    noted,
    ties,
    wait_for,
    weight_files,
    weights,
)

OUT = "hf://alice/out"
SIZE = 60_000  # bytes a shard; the merge has six of them, and one that is as large as the embedding


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def plan(alice: str) -> Plan:
    return make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)


@pytest.fixture
def right(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """The weight files that the merge is to have."""
    merged(ties(folder), tmp_path / "right", SIZE)
    return weight_files(tmp_path / "right")


def fail_at(hub: Hub, plan: Plan, token: str, shard: int) -> None:
    """A run whose uploads are refused from this shard on."""
    hub.fault("PUT", "^/upload/", status=403, skip=shard, times=None)
    with pytest.raises(
        DestinationError, match="continues from the last finished shard" if shard else "again"
    ):
        run_plan(plan, OUT, token=token)
    hub.clear_faults()


def test_a_run_that_failed_goes_on_with_what_is_missing(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]
) -> None:
    count = len(plan.shards)
    fail_at(hub, plan, alice, 3)
    assert weights(hub, "alice/out") == {}
    hub.log.clear()
    seen: list[Progress] = []

    result = run_plan(plan, OUT, token=alice, on_progress=seen.append)

    assert result.verified
    assert weights(hub, "alice/out") == right
    sent = hub.log.find("PUT", "^/upload/")
    assert len(sent) == count - 3
    # Two shards travel at a time, so that the third to arrive may be the fourth.
    oids = {hashlib.sha256(data).hexdigest(): name for name, data in right.items()}
    names = {oids[exchange.path.split("/")[4]] for exchange in sent}
    missing = sum(t.bytes for shard in plan.shards if shard.filename in names for t in shard.tensors)
    # Nothing of the finished shards is read again, but where one lies in a gap that is cheaper to read than to
    # leave out; three inputs for each byte of output.
    assert hub.log.bytes_out("^/lfs/alice/(base|a|b)/") < 3 * (missing + GAP) + 400_000
    merging = [progress for progress in seen if progress.phase == "merge"]
    assert merging[0].tensors_done >= sum(len(shard.tensors) for shard in plan.shards[:3])
    assert merging[0].message == f"3 of {count} files were there already"


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a run knows that a part of it failed."""
    known, interrupt = threading.Event(), ThreadPool.interrupt

    def interrupted(self: ThreadPool) -> None:
        interrupt(self)
        known.set()

    monkeypatch.setattr(ThreadPool, "interrupt", interrupted)
    return known


def test_a_shard_that_has_arrived_is_kept_though_its_thread_is_late(
    hub: Hub, alice: str, plan: Plan, failed: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[object] = []
    upload, close = HubSink._preupload, Stoppable.close

    def note(self: HubSink, operation: Any, content: Stoppable, **options: Any) -> None:
        upload(self, operation, content, **options)
        arrived.append(content)

    def close_late(self: Stoppable) -> None:
        if len(arrived) == 3 and self is arrived[2]:
            assert failed.wait(60)
        close(self)

    monkeypatch.setattr(HubSink, "_preupload", note)
    monkeypatch.setattr(Stoppable, "close", close_late)

    fail_at(hub, plan, alice, 3)

    assert len(noted(hub)) == 3


def only_the_first_can_be_made(
    plan: Plan, is_sent: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the tensors of all shards but the first fail, as soon as that one is sent."""

    def merge_first(made_of: Plan, tensor: PlannedTensor, *rest: Any) -> int:
        if tensor in plan.shards[0].tensors:
            return merge_tensor(made_of, tensor, *rest)
        wait_for(is_sent)
        raise CheckpointError(Problem("model-changed", {"model": "alice/a"}))

    monkeypatch.setattr("merging.engine.threads.merge_tensor", merge_first)


def test_an_upload_under_way_ends_though_a_model_cannot_be_read(
    hub: Hub, alice: str, plan: Plan, failed: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, sending = HubSink._preupload, threading.Event()

    def upload_late(self: HubSink, *args: Any, **options: Any) -> None:
        sending.set()
        assert failed.wait(60)
        upload(self, *args, **options)

    monkeypatch.setattr(HubSink, "_preupload", upload_late)
    only_the_first_can_be_made(plan, sending.is_set, monkeypatch)

    with pytest.raises(CheckpointError):
        run_plan(plan, OUT, token=alice)

    assert [path.rpartition("/")[2] for path in noted(hub)] == [plan.shards[0].filename]


def test_a_cancel_ends_the_uploads_of_a_run_that_failed(
    hub: Hub, alice: str, plan: Plan, failed: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = hub.fault("PUT", "^/upload/", delay=STALLED, times=None)
    only_the_first_can_be_made(plan, lambda: stalled.hits, monkeypatch)
    cancel = threading.Event()
    watching = set_when(cancel, failed.is_set)
    began = time.monotonic()

    with pytest.raises(Cancelled):
        run_plan(plan, OUT, token=alice, cancel=cancel)

    watching.join()
    assert time.monotonic() - began < SOON
    assert "alice/out" not in hub.repos


def test_main_has_one_commit_and_the_journal_is_gone(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]
) -> None:
    fail_at(hub, plan, alice, 2)
    assert len(hub.repo("alice/out").history()) == 1

    run_plan(plan, OUT, token=alice)

    repo = hub.repo("alice/out")
    assert [*repo.refs] == ["main"]
    assert len(repo.history()) == 2
    assert not any("/" in name for name in repo.files())


def test_a_run_with_everything_in_the_journal_only_publishes(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]
) -> None:
    hub.fault("POST", "/commit/main", status=403, times=None)
    with pytest.raises(DestinationError):
        run_plan(plan, OUT, token=alice)
    hub.clear_faults()
    hub.log.clear()

    run_plan(plan, OUT, token=alice)

    assert weights(hub, "alice/out") == right
    assert not hub.log.find("PUT", "^/upload/")


def test_another_plan_does_not_take_them_over(hub: Hub, alice: str, plan: Plan) -> None:
    fail_at(hub, plan, alice, 3)
    other = make_plan(read_recipe(ties("alice").replace("0.6", "0.7")), OUT, token=alice, shard_size=SIZE)
    assert other.fingerprint != plan.fingerprint
    hub.log.clear()

    run_plan(other, OUT, token=alice)

    # Equal shards would not be sent twice, but none is.
    assert len(hub.log.find("PUT", "^/upload/")) == len(plan.shards)


def test_shards_of_an_older_model_are_not_taken_for_finished_ones(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]
) -> None:
    """The journal begins as a copy of main, where a merge with other weights has files of the same names and sizes."""
    merged(ties("alice").replace("0.6", "0.1"), OUT, SIZE, token=alice)
    older = weights(hub, "alice/out")
    assert {name: len(data) for name, data in older.items()} == {
        name: len(data) for name, data in right.items()
    }
    over = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE, overwrite=True)
    hub.fault("PUT", "^/upload/", status=403, skip=2, times=None)
    with pytest.raises(DestinationError):
        run_plan(over, OUT, token=alice, overwrite=True)
    assert weights(hub, "alice/out") == older
    hub.clear_faults()

    run_plan(over, OUT, token=alice, overwrite=True)

    assert weights(hub, "alice/out") == right


def test_one_shard_needs_no_journal(hub: Hub, alice: str) -> None:
    merged(ties("alice"), OUT, 10**9, token=alice)

    assert len(hub.log.find("POST", "/commit/")) == 1
    assert not hub.log.find("POST", "/branch/")


def test_many_small_shards_and_many_workers_do_not_wait_for_each_other(
    hub: Hub, alice: str, folder: Path, tmp_path: Path
) -> None:
    """A worker waits for room in the destination while others finish the shards that make it."""
    merged(ties(folder), tmp_path / "right", 1)

    merged(ties("alice"), OUT, 1, token=alice, workers=8)

    for name, data in weights(hub, "alice/out").items():
        assert data == (tmp_path / "right" / name).read_bytes()


# -- stopping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "skip"),
    [("PUT", "^/upload/", 2), ("GET", "^/lfs/alice/(base|a|b)/", 6), ("POST", "/commit/merge-", 1)],
)
def test_cancel_is_quick_and_leaves_nothing(
    method: str, path: str, skip: int, hub: Hub, alice: str, plan: Plan
) -> None:
    """Even while a host stalls in the middle of something: an upload, the weights after six headers, a commit."""
    fault = hub.fault(method, path, delay=STALLED, skip=skip, times=None)

    cancelled_at(fault, plan, OUT, alice)

    assert "alice/out" not in hub.repos


@pytest.mark.parametrize(("lands", "size"), [(False, 10**9), (True, SIZE)])
def test_cancel_while_the_last_commit_is_not_answered(
    lands: bool, size: int, hub: Hub, alice: str, folder: Path, tmp_path: Path
) -> None:
    """Whether the Hub makes it or not, nobody knows. What the run created goes; elsewhere the old model or the new one
    is there, whole, the run says that it does not know which, and running it again makes it so."""
    merged(ties(folder), tmp_path / "right", size)
    right = weight_files(tmp_path / "right")
    old = {"model.safetensors": b"old"}

    def cancelled() -> None:
        what: dict[str, int] = {"stall": 0} if lands else {"delay": STALLED}
        commit = hub.fault("POST", "/commit/main", times=None, **what)
        cancel = threading.Event()
        watching = set_when(cancel, lambda: commit.hits)
        try:
            run_plan(plan, OUT, token=alice, overwrite=True, cancel=cancel)
        finally:
            watching.join()
            hub.clear_faults()

    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=size, overwrite=True)
    began = time.monotonic()
    with pytest.raises(Cancelled):
        cancelled()
    assert "alice/out" not in hub.repos

    hub.put("alice/out", old)
    with pytest.raises(DestinationError, match="either what it held before, or the whole merge"):
        cancelled()
    assert time.monotonic() - began < SOON
    assert weights(hub, "alice/out") == (right if lands else old)

    assert run_plan(plan, OUT, token=alice, overwrite=True).verified
    assert weights(hub, "alice/out") == right
    assert [*hub.repo("alice/out").refs] == ["main"]


def test_cancel_that_comes_after_the_last_commit_comes_too_late(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]
) -> None:
    """Reading back is under way, and stalls: the model is there, and only not called verified."""
    cancel = threading.Event()
    stalled = hub.fault("POST", "/paths-info/[0-9a-f]{40}", delay=STALLED, times=None)
    watching = set_when(cancel, lambda: stalled.hits)

    result = run_plan(plan, OUT, token=alice, cancel=cancel)

    watching.join()
    assert not result.verified
    assert weights(hub, "alice/out") == right
    assert [*hub.repo("alice/out").refs] == ["main"]


def set_when(event: threading.Event, condition: Callable[[], object]) -> threading.Thread:
    """Set an event as soon as a condition holds, in another thread."""

    def watch() -> None:
        wait_for(condition)
        event.set()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_an_upload_ends_in_the_middle_of_a_shard() -> None:
    sending: list[io.BytesIO] = []
    cancel = threading.Event()

    def check() -> None:
        if cancel.is_set():
            raise Cancelled

    HeldShard(100_000, check, sending.append).close()
    assert len(sending[0].read(65_536)) == 65_536
    cancel.set()
    with pytest.raises(Cancelled):
        sending[0].read(65_536)


def test_cancel_of_a_run_that_went_on_removes_the_journal(hub: Hub, alice: str, plan: Plan) -> None:
    fail_at(hub, plan, alice, 3)
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        run_plan(plan, OUT, token=alice, on_progress=lambda _: cancel.set(), cancel=cancel)

    assert [*hub.repo("alice/out").refs] == ["main"]


def test_a_failure_before_the_first_shard_leaves_nothing(hub: Hub, alice: str, plan: Plan) -> None:
    fail_at(hub, plan, alice, 0)

    assert "alice/out" not in hub.repos


@pytest.mark.parametrize(("end", "kept"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_ctrl_c_undoes_and_a_shutdown_keeps(
    end: signal.Signals, kept: bool, tmp_path: Path, hub: Hub, alice: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(ties("alice"))
    stalled = hub.fault("PUT", "^/upload/", delay=STALLED, skip=3, times=None)

    run = Run([str(tmp_path / "recipe.yaml"), "--to", OUT, "--shard-size", str(SIZE)], alice)
    wait_for(lambda: stalled.hits and len(noted(hub)) == 3)
    run.send_signal(end)
    status, told = run.end()

    assert status == 1
    assert (b"Run it again" if kept else b"nothing was left behind") in told
    if not kept:
        assert "alice/out" not in hub.repos
        return
    [branch] = {*hub.repo("alice/out").refs} - {"main"}
    assert len([name for name in hub.repo("alice/out").files(branch) if "/" in name]) == 3


# -- reading back --------------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_read_back_is_not_called_verified(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]
) -> None:
    hub.fault("GET", "/api/models/alice/out/revision/", status=503, times=None)

    assert not run_plan(plan, OUT, token=alice).verified
    assert weights(hub, "alice/out") == right


def test_other_bytes_than_were_sent_are_told(
    hub: Hub, alice: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.hub.repo import Entry, Repo

    commit = Repo.commit

    def wrong(self: Repo, ref: str, parent: object, entries: dict[str, Entry], *rest: str) -> object:
        name = plan.shards[1].filename
        if ref == "main" and name in entries:
            entries = {**entries, name: entries[plan.shards[2].filename]}
        return commit(self, ref, parent, entries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Repo, "commit", wrong)

    with pytest.raises(DestinationError, match=rf"does not hold what was sent: {plan.shards[1].filename}"):
        run_plan(plan, OUT, token=alice)


def test_another_version_of_the_program_starts_anew(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan.fingerprint
    assert Plan.from_json(plan.to_json()).fingerprint == before
    monkeypatch.setattr("merging.plan.software", lambda: ["another"])

    assert Plan.from_json(plan.to_json()).fingerprint != before


def test_what_is_not_finite_is_known_to_the_run_that_continues(
    hub: Hub, alice: str, folder: Path, tmp_path: Path
) -> None:
    """The journal keeps it, beside the shard, and the result has the shard alone."""
    name = "model.layers.0.input_layernorm.weight"
    shutil.copytree(folder / "a", tmp_path / "large")
    tensors = load_file(tmp_path / "large" / "model.safetensors")
    tensors[name][:] = 1e5
    save_file(tensors, tmp_path / "large" / "model.safetensors", metadata={"format": "pt"})
    hub.put("alice/large", tmp_path / "large")
    text = "merge_method: passthrough\nmodels: [{model: alice/large}]\ndtype: float16\n"
    plan = make_plan(read_recipe(text), OUT, token=alice, shard_size=SIZE)
    fail_at(hub, plan, alice, 3)
    hub.log.clear()

    result = run_plan(plan, OUT, token=alice)

    assert name not in {t.name for shard in plan.shards[3:] for t in shard.tensors}
    assert result.not_finite == {name: len(tensors[name])}
    assert not any("finite" in file for file in hub.repo("alice/out").files())

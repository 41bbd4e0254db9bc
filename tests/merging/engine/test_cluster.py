"""Shards made by a cluster, and what follows when something there goes wrong. `test_ray` has the same with Ray."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.cluster import Call, LossCause, Machine
from merging import Cancelled, DestinationError, MergeError, Plan, Progress, make_plan, read_recipe, run_plan
from merging.engine import cluster as engine_module
from merging.engine.cluster import ClusterEngine, RayEngine
from merging.engine.task import Task
from tests.hub import Hub
from tests.merges import merged, ties, weight_files, weights
from tests.merging.engine import conformance
from tests.merging.engine.fake_cluster import GB, FakeCluster, Fate

OUT = "hf://alice/out"
SIZE = 60_000


@pytest.fixture(scope="module")
def right(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine makes."""
    to = tmp_path_factory.mktemp("right") / "out"
    merged(ties(folder), to, SIZE)
    return weight_files(to)


@pytest.fixture
def plan(alice: str) -> Plan:
    """Six shards, from the Hub to the Hub."""
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    assert plan.problems == ()
    assert len(plan.shards) == 6
    return plan


@pytest.fixture(autouse=True)
def always_reporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is reported at each step of the cluster."""
    monkeypatch.setattr("merging.engine.engine.PULSE", 0.0)


def made(cluster: FakeCluster) -> list[int]:
    """How many shards were in each call."""
    return [len(Task.from_json(call.text).plan.shards) for call, _ in cluster.calls]


def branches(hub: Hub) -> list[str]:
    return [*hub.repo("alice/out").refs] if "alice/out" in hub.repos else []


def test_an_engine_of_a_cluster_conforms(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for check in (
        conformance.makes_every_shard_once,
        conformance.counts_what_is_merged,
        conformance.ends_on_an_error_of_the_caller,
    ):
        (tmp_path / check.__name__).mkdir()
        check(ClusterEngine(FakeCluster()), folder, tmp_path / check.__name__)
    place = tmp_path / "errors"
    place.mkdir()
    conformance.raises_what_a_worker_raised(ClusterEngine(FakeCluster()), folder, place, monkeypatch)


def test_from_hub_to_hub(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines ask for little, and only this process commits: once for all receipts, and once to publish."""
    cluster, asked = FakeCluster(), 0
    step = cluster.events

    def events(seconds: float) -> object:
        nonlocal asked
        before = len(hub.log.find("HEAD", "/resolve/"))
        found = step(seconds)
        asked += len(hub.log.find("HEAD", "/resolve/")) - before
        return found

    monkeypatch.setattr(cluster, "events", events)
    hub.log.clear()

    result = run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster), workers=2)

    assert result.verified
    assert weights(hub, "alice/out") == right
    assert branches(hub) == ["main"]
    assert made(cluster) == [3, 3]
    # A request for each weight file that a call reads: of the five that there are, one for `base` and one for `a`.
    assert 0 < asked <= 5 * len(cluster.calls)
    assert len(hub.log.find("GET", "^/api/models/alice/(base|a|b)/revision/")) <= 3
    noted = hub.log.find("POST", "/commit/merge-")
    assert 1 <= len(noted) <= 2
    assert len(hub.log.find("POST", "/commit/main")) == 1


def test_what_a_call_takes_comes_from_the_plan(alice: str, plan: Plan) -> None:
    cluster = FakeCluster()

    run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster, shards=1), workers=8)

    assert {call.cpus for call, _ in cluster.calls} == {2}
    assert all(100_000_000 < call.memory <= plan.peak_memory_bytes for call, _ in cluster.calls)
    assert len({call.memory for call, _ in cluster.calls}) > 1  # by the size of the shard


def test_no_token_is_in_a_call(hub: Hub, plan: Plan, alice: str) -> None:
    cluster = FakeCluster()

    run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster))

    assert {token for _, token in cluster.calls} == {alice}
    assert alice not in repr([call for call, _ in cluster.calls])


def dies(times: int, at: int, loss: LossCause = LossCause.DIED) -> Fate:
    """A call is lost before its line `at`, as often as this."""
    left = [times]

    def fate(call: Call, line: int, lines: int) -> LossCause | None:
        if line == at and left[0]:
            left[0] -= 1
            return loss
        return None

    return fate


@pytest.mark.parametrize(
    ("fate", "calls"),
    [
        (dies(1, 0), [3, 3, 3]),  # before its first word
        (dies(1, 1), [3, 3, 3]),  # and before its first shard
        (dies(1, 3), [3, 3, 1]),  # its first two arrived
        (dies(2, 2), [3, 3, 2, 2]),  # both machines
        (dies(3, 0), [3, 3, 3, 3, 3]),  # as often as is allowed
        (dies(7, 0, LossCause.PREEMPTED), [3] * 9),  # what was announced does not count
        (dies(1, 2, LossCause.OUT_OF_MEMORY), [3, 3, 2]),
    ],
    ids=["at once", "early", "late", "both", "often", "preempted", "memory"],
)
def test_what_is_lost_is_made_again(
    fate: Fate, calls: list[int], hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]
) -> None:
    cluster = FakeCluster(fate=fate)

    run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster), workers=2)

    assert sorted(made(cluster), reverse=True) == calls
    assert weights(hub, "alice/out") == right
    assert branches(hub) == ["main"]


def always(loss: LossCause, after: int) -> Fate:
    """Loses every call after a given number of lines."""
    return lambda call, line, lines: loss if lines >= after else None


def test_a_process_that_always_dies(hub: Hub, alice: str, plan: Plan, right: dict[str, bytes]) -> None:
    """What arrived stays, and a run on one machine continues."""
    cluster = FakeCluster(fate=always(LossCause.DIED, 4))  # two words and two shards

    with pytest.raises(MergeError, match="died 4 times") as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster), workers=2)

    assert [problem.code for problem in caught.value.problems] == ["machine-lost"]
    assert cluster.cancelled
    assert len(branches(hub)) == 2
    result = run_plan(plan, OUT, token=alice)
    assert "an earlier run" in result.written_by
    assert weights(hub, "alice/out") == right


def test_a_call_out_of_memory_gets_twice_as_much_once(hub: Hub, alice: str, plan: Plan) -> None:
    cluster = FakeCluster(fate=always(LossCause.OUT_OF_MEMORY, 0))

    with pytest.raises(MergeError, match=r"0\.4 GB of memory were not enough") as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster), workers=2)

    assert [problem.code for problem in caught.value.problems] == ["machine-out-of-memory"]
    first, second = (call.memory for call, _ in cluster.calls)
    assert second == 2 * first


def test_no_machine_has_twice_as_much(alice: str, plan: Plan) -> None:
    need = plan.peak_memory_bytes
    cluster = FakeCluster([Machine(2, need + 1)], fate=always(LossCause.OUT_OF_MEMORY, 0))

    with pytest.raises(MergeError) as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster), workers=2)

    assert [problem.code for problem in caught.value.problems] == ["machine-out-of-memory"]
    assert [call.memory for call, _ in cluster.calls][1] == need + 1


def test_a_problem_ends_all_at_once(hub: Hub, alice: str, plan: Plan) -> None:
    """It is raised as it was, calls end before the branch is removed, and nothing is tried again."""
    cluster = FakeCluster()
    hub.fault("PUT", "^/upload/", status=403, times=None)

    with pytest.raises(DestinationError) as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster))

    assert type(caught.value) is DestinationError
    assert {problem.code for problem in caught.value.problems} <= {"push-failed", "push-interrupted"}
    assert cluster.cancelled
    assert len(cluster.calls) <= 2
    assert not cluster.under_way


def cancelled_when(is_due: Callable[[Progress], bool], cluster: FakeCluster, plan: Plan, token: str) -> None:
    cancel = threading.Event()

    def watch(progress: Progress) -> None:
        if is_due(progress):
            cancel.set()

    with pytest.raises(Cancelled):
        run_plan(plan, OUT, token=token, on=ClusterEngine(cluster), on_progress=watch, cancel=cancel)


@pytest.mark.parametrize("when", ["first receipt", "last receipt", "commit"])
def test_a_cancelled_merge_leaves_nothing(when: str, hub: Hub, alice: str, plan: Plan) -> None:
    def is_due(progress: Progress) -> bool:
        if when == "first receipt":
            return progress.phase == "merge" and progress.bytes_done > 0
        if when == "last receipt":
            return progress.bytes_done == progress.bytes_total
        return progress.phase == "finish"

    cancelled_when(is_due, cluster := FakeCluster(), plan, alice)

    assert "alice/out" not in hub.repos
    assert cluster.cancelled == (when == "first receipt")


def test_a_driver_that_dies_is_followed_by_another(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RECEIPTS", 2)

    def die(progress: Progress) -> None:
        if progress.phase == "merge" and progress.tensors_done > len(plan.tensors) // 2:
            raise SystemExit("the machine shuts down")

    with pytest.raises(SystemExit):
        run_plan(plan, OUT, token=alice, on=ClusterEngine(FakeCluster()), on_progress=die)
    assert len(branches(hub)) == 2
    cluster = FakeCluster()

    run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster))

    assert 0 < sum(made(cluster)) < len(plan.shards)
    assert weights(hub, "alice/out") == right


def test_a_machine_with_another_processor_sends_nothing(
    hub: Hub, alice: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster()

    def kind(device: str) -> str:
        return ("x86_64-avx2", "aarch64-default")[cluster.machine]

    monkeypatch.setattr("merging.engine.processor.processor_kind", kind)
    monkeypatch.setattr("merging.engine.cluster.processor_kind", kind)
    uploads: list[int] = []
    step = cluster.events

    def events(seconds: float) -> object:
        before = len(hub.log.find("PUT", "^/upload/"))
        found = step(seconds)
        if cluster.machine == 1:
            uploads.append(len(hub.log.find("PUT", "^/upload/")) - before)
        return found

    monkeypatch.setattr(cluster, "events", events)
    with pytest.raises(MergeError, match=r"x86_64-avx2.*aarch64-default") as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster), workers=2)

    assert [problem.code for problem in caught.value.problems] == ["other-processor"]
    assert uploads
    assert not any(uploads)


def test_a_machine_with_other_software_sends_nothing(
    hub: Hub, alice: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task = engine_module.make_task

    def other(*given: object) -> Task:
        task = make_task(*given)  # type: ignore[arg-type]
        return replace(task, software=("arithmetic 0", *task.software[1:]))

    monkeypatch.setattr(engine_module, "make_task", other)

    with pytest.raises(MergeError) as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(FakeCluster()))

    assert [problem.code for problem in caught.value.problems] == ["other-software"]
    assert not hub.log.find("PUT", "^/upload/")


def test_a_receipt_without_its_file(
    hub: Hub, alice: str, plan: Plan, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub does not take it; the same merge makes that file again."""
    lines = engine_module.lines

    def lies(*given: object) -> object:
        for line in lines(*given):  # type: ignore[arg-type]
            data = json.loads(line)
            yield json.dumps(data | {"sha256": "0" * 64}) if data.get("sha256") else line

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "lines", lies)
        with pytest.raises(DestinationError):
            run_plan(plan, OUT, token=alice, on=ClusterEngine(FakeCluster()))

    run_plan(plan, OUT, token=alice, on=ClusterEngine(FakeCluster()))
    assert weights(hub, "alice/out") == right


@pytest.mark.parametrize("sizes", [[Machine(4, GB // 10)], [Machine(1, GB // 10), Machine(16, GB // 20)]])
def test_a_shard_that_no_machine_can_make_is_refused(
    sizes: list[Machine], alice: str, plan: Plan, hub: Hub
) -> None:
    cluster = FakeCluster(sizes)

    with pytest.raises(MergeError, match=r"model-00001-of-00006.safetensors.*the largest machine") as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(cluster, shards=1))

    assert [problem.code for problem in caught.value.problems] == ["larger-than-machines"]
    assert not cluster.calls
    assert not hub.log.find("PUT", "^/upload/")


def test_a_single_file_on_the_hub_is_not_handed_out(alice: str) -> None:
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice)

    with pytest.raises(MergeError) as caught:
        run_plan(plan, OUT, token=alice, on=ClusterEngine(FakeCluster()))

    assert [problem.code for problem in caught.value.problems] == ["nothing-to-hand-out"]


def test_without_ray_it_says_what_to_install(
    hub: Hub, alice: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MergeError, match=r"pip install 'alloy-merge\[ray\]'") as caught:
        run_plan(plan, OUT, token=alice, on=RayEngine())

    assert [problem.code for problem in caught.value.problems] == ["ray-not-installed"]
    assert "alice/out" not in hub.repos


def test_receipts_are_noted_in_handfuls(
    hub: Hub, alice: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two here, and of sixteen elsewhere."""
    monkeypatch.setattr(engine_module, "RECEIPTS", 2)
    hub.log.clear()

    run_plan(plan, OUT, token=alice, on=ClusterEngine(FakeCluster(), shards=1))

    assert len(hub.log.find("POST", "/commit/merge-")) <= len(plan.shards)

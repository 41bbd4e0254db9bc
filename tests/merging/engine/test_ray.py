"""The same with Ray: two nodes on this machine, their processes, and what kills them. `make nightly` runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from checkpoints.cluster import Call, Calls, ClusterError
from checkpoints.ray_cluster import RayCluster
from merging import (
    Cancelled,
    CheckpointError,
    DestinationError,
    MergeError,
    Progress,
    RayEngine,
    make_plan,
    read_recipe,
    run_plan,
)
from merging.destinations import Receipt
from merging.destinations.journal import Journal
from merging.methods import METHODS
from tests import ROOT
from tests.hub import Hub
from tests.merges import merged, ties, wait_for, weight_files, weights
from tests.merging.engine import conformance

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(900)]

OUT = "hf://alice/out"
SIZE = 60_000
MEMORY = 2_000_000_000
# One method for each kind of arithmetic; see `merging.methods`.
KINDS = ("linear", "slerp", "ties", "dare_ties", "model_stock", "tsv_merge", "passthrough")


class Nodes:
    """Two nodes of a processor each, and a head that only schedules."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, memory=MEMORY, object_store_memory=80_000_000)

    def kill(self, number: int, **environment: str) -> None:
        """As if its machine had lost power; another one takes its place.

        Args:
            environment: variables of the new machine's processes
        """
        self.cluster.remove_node(self.nodes[number], allow_graceful=False)
        before = {name: os.environ.get(name) for name in environment}
        os.environ |= environment
        self.nodes[number] = self.add()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

    def drain(self, number: int) -> None:
        """As a machine that is taken back with notice."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        node, deadline = self.nodes[number].node_id, int((time.time() + 1) * 1000)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = GcsClient(address=self.cluster.address).drain_node(node, reason, "notice", deadline)
        assert accepted, why


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    import ray

    from tests.conftest import HUB

    # What processes of a node inherit.
    os.environ |= {"HF_ENDPOINT": HUB.endpoint, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    nodes = Nodes()
    os.environ["RAY_ADDRESS"] = nodes.cluster.address
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()
    del os.environ["RAY_ADDRESS"]


def when(count: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    """Act once so many tensors are merged."""
    is_done = False

    def watch(progress: Progress) -> None:
        nonlocal is_done
        if not is_done and progress.phase == "merge" and progress.tensors_done >= count:
            is_done = True
            act()

    return watch


def workers() -> list[psutil.Process]:
    """The processes that run calls now."""
    found = []
    for process in psutil.Process().children(recursive=True) + _of_ray():
        with suppress(psutil.Error):
            if process.name().startswith("ray::") and "IDLE" not in process.name():
                found.append(process)
    return list({process.pid: process for process in found}.values())


def _of_ray() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                " ".join(process.cmdline()).startswith("ray::")
                and process.username() == psutil.Process().username()
            ):
                found.append(process)
    return found


def recipe(method: str, place: str) -> str:
    """A merge of `a` and `b`."""
    found = METHODS[method]
    models: list[dict[str, Any]] = [{"model": f"{place}/{name}"} for name in ("a", "b")]
    if method == "passthrough":
        return yaml.safe_dump({"merge_method": method, "models": models[:1]})
    text: dict[str, Any] = {"merge_method": method, "models": models, "parameters": {}}
    for parameter in found.parameters:
        if parameter.required:
            text["parameters"][parameter.name] = 0.5
    if found.base != "none":
        text["base_model"] = f"{place}/base"
    if method == "slerp":
        text["base_model"] = f"{place}/a"
    return yaml.safe_dump(text)


@pytest.mark.parametrize("method", KINDS)
def test_the_same_bytes_with_a_node_killed(
    method: str, nodes: Nodes, hub: Hub, alice: str, folder: Path, tmp_path: Path
) -> None:
    to = tmp_path / "right"
    merged(recipe(method, str(folder)), to, SIZE)
    plan = make_plan(read_recipe(recipe(method, "alice")), OUT, token=alice, shard_size=SIZE)
    assert plan.problems == ()
    kill = when(1, lambda: nodes.kill(0)) if method != "passthrough" else None

    result = run_plan(plan, OUT, token=alice, on=RayEngine(shards=1), workers=1, on_progress=kill)

    assert result.verified
    assert weights(hub, "alice/out") == weight_files(to)
    assert [*hub.repo("alice/out").refs] == ["main"]


def test_it_conforms(nodes: Nodes, folder: Path, tmp_path: Path) -> None:
    for check in (
        conformance.makes_every_shard_once,
        conformance.counts_what_is_merged,
        conformance.ends_on_an_error_of_the_caller,
    ):
        (tmp_path / check.__name__).mkdir()
        check(RayEngine(), folder, tmp_path / check.__name__)


def lines(text: str, token: object, cpus: int) -> Iterator[str]:
    """What the calls of the tests below run."""
    what = json.loads(text)
    yield "begun"
    if what["do"] == "die" and not Path(what["mark"]).exists():
        Path(what["mark"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what["do"] == "always die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what["do"] == "raise":
        from checkpoints.problems import Problem

        raise CheckpointError(Problem("model-changed", {"model": "a/b"}, "a/b"))
    if what["do"] == "hang once" and not Path(what["mark"]).exists():
        import ray

        mark = Path(what["mark"])
        mark.with_suffix(".part").write_text(ray.get_runtime_context().get_node_id())
        mark.with_suffix(".part").rename(mark)
        threading.Event().wait(120)
    if what["do"] == "hang":
        threading.Event().wait(120)
    if what["do"] == "token":
        yield f"{len(str(token))}"
    yield "done"


def call(do: str, memory: int = 100_000_000, **more: str) -> Call:
    return Call("tests.merging.engine.test_ray:lines", json.dumps({"do": do, **more}), do, 1, memory)


def run(cluster: RayCluster, *calls: Call, token: str | None = None, seconds: float = 120) -> list[str]:
    deadline = time.monotonic() + seconds

    def pulse() -> None:
        assert time.monotonic() < deadline, "waited too long"

    under_way = Calls(cluster, token, pulse)
    for each in calls:
        under_way.submit(each)
    return [line.text for lines in under_way.arrivals() for line in lines]


def test_a_process_that_dies_once(nodes: Nodes, tmp_path: Path) -> None:
    assert run(RayCluster(), call("die", mark=str(tmp_path / "mark"))) == ["begun", "begun", "done"]


def test_a_process_that_always_dies(nodes: Nodes) -> None:
    with pytest.raises(ClusterError, match="died 4 times"):
        run(RayCluster(), call("always die"))


def test_an_error_is_raised_as_it_was(nodes: Nodes) -> None:
    with pytest.raises(CheckpointError, match="a/b") as caught:
        run(RayCluster(), call("raise"))
    assert type(caught.value) is CheckpointError
    assert caught.value.problems[0].code == "model-changed"


def test_a_machine_that_is_taken_back_with_notice(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it ran is repeated, and that does not count."""
    monkeypatch.setattr("checkpoints.cluster.RETRIES", 0)
    mark = tmp_path / "mark"
    places = [node.node_id for node in nodes.nodes]

    def drain() -> None:
        wait_for(mark.exists, 120)
        nodes.drain(places.index(mark.read_text()))

    draining = threading.Thread(target=drain)
    draining.start()
    found = run(RayCluster(), call("hang once", mark=str(mark)), seconds=240)
    draining.join()
    nodes.nodes[places.index(mark.read_text())] = nodes.add()

    assert found[-2:] == ["begun", "done"]


def test_a_call_out_of_memory(nodes: Nodes) -> None:
    """Ray's own monitor ends it: on machines that count as full from the start."""
    full = {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "100"}
    for number in (0, 1):
        nodes.kill(number, **full)
    try:
        with pytest.raises(ClusterError) as caught:
            run(RayCluster(), call("hang"))
    finally:
        for number in (0, 1):
            nodes.kill(number)
    [problem] = caught.value.problems
    assert problem.code == "machine-out-of-memory"
    assert problem.values["memory"] == pytest.approx(0.2)


OTHER_NUMPY = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: "0.0" if name == "numpy" else version(name)
"""


@pytest.mark.parametrize("code", ["other-processor", "other-software"])
def test_a_machine_that_is_unlike_the_others(
    code: str, nodes: Nodes, hub: Hub, alice: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_NUMPY)
    unlike = {
        "other-processor": {"ATEN_CPU_CAPABILITY": "default"},
        "other-software": {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    }
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    nodes.kill(0, **unlike[code])
    try:
        with pytest.raises(MergeError) as caught:
            run_plan(plan, OUT, token=alice, on=RayEngine(shards=1), workers=1)
    finally:
        nodes.kill(0)

    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_stop_ends_the_processes(nodes: Nodes) -> None:
    began = time.monotonic()
    stop = threading.Event()

    def pulse() -> None:
        if stop.is_set():
            raise Cancelled

    calls = Calls(RayCluster(), None, pulse)
    calls.submit(call("hang"))
    with pytest.raises(Cancelled):
        for found in calls.arrivals():
            if found:
                began = time.monotonic()
                stop.set()
    assert time.monotonic() - began < 10
    wait_for(lambda: not [p for p in workers() if "hang" in p.name()], 10)


def test_a_shard_larger_than_any_node(
    nodes: Nodes, hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    monkeypatch.setattr("merging.engine.engine.Merge.memory", lambda self, shards: 2 * MEMORY)

    with pytest.raises(MergeError, match=r"the largest machine of the cluster has 1 and 2\.0 GB"):
        run_plan(plan, OUT, token=alice, on=RayEngine(), workers=1)
    assert "alice/out" not in hub.repos


def test_a_model_that_cannot_be_read_ends_all(
    nodes: Nodes, hub: Hub, alice: str, folder: Path, tmp_path: Path
) -> None:
    """What arrived before is kept, and the same merge continues from it."""
    merged(ties(folder), tmp_path / "right", SIZE)
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)

    def refuse() -> None:
        hub.fault("GET", "^/alice/b/resolve/|^/objects/", status=403, times=None)
        hub.fault("HEAD", "^/alice/b/resolve/", status=403, times=None)

    with pytest.raises(CheckpointError) as caught:
        run_plan(plan, OUT, token=alice, on=RayEngine(shards=1), workers=1, on_progress=when(1, refuse))
    assert type(caught.value) is CheckpointError
    assert {problem.where for problem in caught.value.problems} == {"alice/b"}
    hub.clear_faults()
    assert len(hub.repo("alice/out").refs) == 2

    again = run_plan(plan, OUT, token=alice, on=RayEngine(), workers=1)

    assert "an earlier run" in again.written_by
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")


def test_a_receipt_without_its_file(
    nodes: Nodes, hub: Hub, alice: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub loses a file between upload and commit: nothing is published, and the same merge makes it again."""
    merged(ties(folder), tmp_path / "right", SIZE)
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    add, lost = Journal.add, list[str]()

    def lose(journal: Journal, receipts: Sequence[Receipt]) -> None:
        if not lost:
            lost.append(receipts[-1].sha256)
        hub.repo("alice/out").objects.discard(lost[0])
        add(journal, receipts)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", lose)
        with pytest.raises(DestinationError):
            run_plan(plan, OUT, token=alice, on=RayEngine(shards=1), workers=1)
    assert lost
    assert not ("alice/out" in hub.repos and weights(hub, "alice/out"))

    assert run_plan(plan, OUT, token=alice, on=RayEngine(), workers=1).verified
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")


@pytest.mark.parametrize("moment", ["first receipt", "last receipt", "commit"])
def test_a_cancelled_merge_leaves_nothing(moment: str, nodes: Nodes, hub: Hub, alice: str) -> None:
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    cancel = threading.Event()

    def watch(progress: Progress) -> None:
        if moment == "commit":
            is_due = progress.phase == "finish"
        elif moment == "last receipt":
            is_due = progress.tensors_done == progress.tensors_total
        else:
            is_due = progress.tensors_done > 0
        if is_due:
            cancel.set()

    with pytest.raises(Cancelled):
        run_plan(plan, OUT, token=alice, on=RayEngine(shards=1), workers=1, on_progress=watch, cancel=cancel)
    assert "alice/out" not in hub.repos


def test_a_driver_that_is_killed(nodes: Nodes, hub: Hub, alice: str, folder: Path, tmp_path: Path) -> None:
    """Its calls end with it; the same command continues from the journal."""
    merged(ties(folder), tmp_path / "right", SIZE)
    file = tmp_path / "recipe.yaml"
    file.write_text(ties("alice"))
    command = [sys.executable, "-m", "merging", "run", str(file), "--to", OUT, "--shard-size", str(SIZE)]
    command += ["--on", "ray", "--workers", "1", "--progress", "jsonl"]
    # A receipt is noted as soon as it is there: an upload that stalls keeps the merge under way.
    (Path(os.environ["HF_HOME"]) / "token").write_text(alice)  # the login of all nodes
    stall = hub.fault("PUT", "^/upload/", delay=60, skip=4, times=None)
    driver = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "HF_TOKEN": alice}, stderr=subprocess.PIPE
    )
    wait_for(lambda: stall.hits, 120)
    driver.kill()
    driver.wait()
    hub.clear_faults()

    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "HF_TOKEN": alice}, capture_output=True, text=True, timeout=300
    )

    (Path(os.environ["HF_HOME"]) / "token").unlink()
    assert done.returncode == 0, done.stderr
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")


def lists_of_ray() -> dict[str, bytes]:
    """What the state API makes its lists of, with all details: `list_tasks`, `list_actors` and so on. The API itself
    is a part of the dashboard, which is not installed."""
    from ray._private import state
    from ray.experimental import internal_kv

    tables = state.state._connect_and_get_accessor()
    keys = [
        (key, space)
        for space in (None, b"fun", b"job", b"cluster", b"session", b"usage_stats", b"serve")
        for key in internal_kv._internal_kv_list(b"", namespace=space)
    ]
    return {
        "tasks": b"".join(tables.get_task_events()),
        "actors": b"".join(tables.get_actor_table(None, None)),
        "workers": b"".join(tables.get_worker_table()),
        "jobs": b"".join(
            tables.get_job_table(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
        ),
        "nodes": repr(tables.get_node_table()).encode(),
        "groups": b"".join(tables.get_placement_group_table()),
        "stored": b"".join(internal_kv._internal_kv_get(key, namespace=space) or b"" for key, space in keys),
    }


def test_no_token_is_seen_anywhere(nodes: Nodes, hub: Hub, alice: str) -> None:
    """Not in the lists of Ray, in no file that it writes, and in no error."""
    import ray

    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    run_plan(plan, OUT, token=alice, on=RayEngine(), workers=1)
    assert run(RayCluster(), call("token"), token=alice) == ["begun", str(len(alice)), "done"]
    with pytest.raises(CheckpointError) as caught:
        run(RayCluster(), call("raise"), token=alice)

    told = repr(ray.timeline()) + repr(ray.nodes()) + repr(caught.value)
    told += repr(caught.value.__cause__) + repr(caught.value.__context__)
    assert "model-0000" in told
    assert alice not in told
    listed = lists_of_ray()
    assert all(name in listed["tasks"] for name in (b"model-0000", b"token"))
    assert listed["nodes"] and listed["jobs"] and listed["workers"] and listed["stored"]
    assert not [name for name, text in listed.items() if alice.encode() in text]
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    files = [path for path in session.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if alice.encode() in path.read_bytes()]


def test_a_cluster_that_does_not_answer() -> None:
    code = (
        "from checkpoints.ray_cluster import RayCluster\n"
        "from checkpoints.cluster import ClusterError\n"
        "try: RayCluster().machines()\n"
        "except ClusterError as error: print(error.problems[0].code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == "cluster-unreachable", done.stderr

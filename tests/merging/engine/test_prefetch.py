"""Prefetching: few requests, a bound on what is held, the same bits, and an end whatever happens."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from checkpoints import TensorHeader
from checkpoints.dtypes import itemsize
from checkpoints.problems import Problem
from merging import Cancelled, CheckpointError, Progress, make_plan, read_recipe, run_plan
from merging.engine.prefetch import GAP, Origin, Prefetch, Window, windows
from merging.plan import Input, PlannedTensor
from tests import ROOT
from tests.hub import Hub
from tests.merges import SOON, STALLED, wait_for
from tests.tiny import tiny_llama

KB = 1024


# Threads that other tests left waiting for a host that stalls.
OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


def workers() -> list[threading.Thread]:
    """The threads of this test that read or merge, and still run."""
    running = (thread for thread in threading.enumerate() if thread not in OTHERS)
    return [thread for thread in running if thread.name.startswith(("read-", "merge"))]


def files_of_models(models: int, sizes: list[int], gap: int = 0) -> list[bytes]:
    """A file for each model: its tensors one after another, of random bytes."""
    return [
        np.random.default_rng(model).bytes(sum(sizes) + gap * (len(sizes) + 1)) for model in range(models)
    ]


def plan_of(
    models: int, sizes: list[int], gap: int = 0, dtype: str = "BF16"
) -> tuple[list[PlannedTensor], Callable[[Input], TensorHeader]]:
    """Output tensors of so many bytes, and where their inputs are in such files."""
    headers, tensors, start = {}, [], gap
    for number, size in enumerate(sizes):
        name, shape = f"t{number}", (size // itemsize(dtype),)
        headers[name] = TensorHeader(name, dtype, shape, "model.safetensors", start, size)
        inputs = tuple(Input(model, name) for model in range(models))
        tensors.append(PlannedTensor(name, dtype, shape, inputs, {}, None, None))
        start += size + gap
    return tensors, lambda part: headers[part.tensor]


class Counting:
    """Reads from files in memory, and knows how many bytes it has handed out."""

    def __init__(self, files: list[bytes]):
        self.files = files
        self.lock = threading.Lock()
        self.requests: list[tuple[int, int, int]] = []

    def __call__(self, origin: Origin, start: int, buffer: memoryview) -> None:
        buffer[:] = self.files[origin.model][start : start + len(buffer)]
        with self.lock:
            self.requests.append((origin.model, start, len(buffer)))

    @property
    def bytes(self) -> int:
        return sum(size for _, _, size in self.requests)


def slices(tensor: PlannedTensor, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, tensor.bytes, size):
        yield start, min(size, tensor.bytes - start)


def small_windows(monkeypatch: pytest.MonkeyPatch, window: int, slice_: int, resident: int = 10**9) -> None:
    """Windows of `window` bytes, slices of `slice_` elements."""
    monkeypatch.setattr("merging.engine.prefetch.WINDOW", window)
    monkeypatch.setattr("merging.engine.prefetch.SLICE", slice_)
    monkeypatch.setattr("merging.engine.prefetch.RESIDENT", resident)


def test_neighbours_in_a_file_come_in_one_request() -> None:
    sizes = [2 * KB, 64 * KB, 2 * KB]
    for gap, requests in ((0, 3), (GAP, 3), (GAP + 1, 9)):
        tensors, find = plan_of(3, sizes, gap)
        read = Counting(files_of_models(3, sizes, gap))
        with Prefetch(windows(tensors, find, rereads=False), read, budget=10**9, threads=2) as ahead:
            for number in range(len(tensors)):
                ahead.take(number, 0)

        assert len(read.requests) == requests


def test_a_merged_step_leaves_memory_while_threads_wait_for_room() -> None:
    """Each of them had a part of it, and would keep all of it alive."""
    together = threading.Barrier(3)
    tensors, find = plan_of(3, [100 * KB] * 3)
    one, other, waiting = (next(windows([tensor], find, rereads=False)) for tensor in tensors)
    other = Window([chunk._replace(tensor=1) for chunk in other.ranges[0].chunks])  # for one thread alone

    def read(origin: Origin, start: int, buffer: memoryview) -> None:
        if start < 100 * KB:
            together.wait(60)

    with Prefetch(iter([one, other, waiting]), read, budget=300 * KB, threads=3) as ahead:
        held = weakref.ref(ahead.take(0, 0))
        ahead.release(0, 0)
        ahead.take(1, 0)
        wait_for(lambda: held() is None)


def test_long_stretches_come_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.engine.prefetch.MAX_REQUEST", 10 * KB)
    tensors, find = plan_of(1, [25 * KB])
    read = Counting(files_of_models(1, [25 * KB]))

    with Prefetch(windows(tensors, find, rereads=True), read, budget=10**9, threads=1) as ahead:
        ahead.take(0, 0)

    assert [size for _, _, size in read.requests] == [10 * KB, 10 * KB, 5 * KB]


@pytest.mark.parametrize("rereads", [False, True])
@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("budget", [1, 100 * KB, 10**9])
def test_everybody_gets_their_bytes_within_the_budget(
    budget: int, threads: int, rereads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget below a window this would wait forever, if bytes were admitted and not windows."""
    small_windows(monkeypatch, 30 * KB, 5 * KB)
    choose = random.Random(0)
    sizes = [choose.choice([0, 2, 600, 10 * KB, 40 * KB, 70 * KB]) for _ in range(40)]
    tensors, find = plan_of(3, sizes)
    files = files_of_models(3, sizes)
    read = Counting(files)
    largest = max(window.nbytes for window in windows(tensors, find, rereads))
    most_held = done = 0

    with Prefetch(windows(tensors, find, rereads), read, budget=budget, threads=threads) as ahead:
        for number, tensor in enumerate(tensors):
            start_in_file = find(tensor.inputs[0]).start
            with ahead.tensor(number) as reader:
                for start, size in slices(tensor, KB):
                    for index in range(3):
                        buffer = bytearray(size)
                        reader.read(index, start, memoryview(buffer))
                        begin = start_in_file + start
                        assert buffer == files[index][begin : begin + size]
                    # What was merged before this slice may have been dropped, nothing else.
                    most_held = max(most_held, ahead.nbytes)
            done += 3 * tensor.bytes

    assert most_held <= max(budget, largest)
    assert read.bytes == done
    assert ahead.nbytes == 0


def test_a_tensor_that_is_read_again_and_is_too_large_is_left_to_the_merge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_windows(monkeypatch, KB, KB, resident=10 * KB)
    tensors, find = plan_of(2, [6 * KB, 4 * KB])

    assert [window.parts for window in windows(tensors, find, rereads=True)] == [{(1, 0)}]


def test_workers_that_wait_are_woken_by_an_error_and_by_stop() -> None:
    tensors, find = plan_of(2, [KB])
    problem = CheckpointError(Problem("hub-silent", {"error": "ConnectError"}))

    def fail(origin: Origin, start: int, buffer: memoryview) -> None:
        raise problem

    with (
        Prefetch(windows(tensors, find, rereads=False), fail, budget=KB, threads=2) as ahead,
        pytest.raises(CheckpointError, match="ConnectError"),
    ):
        ahead.take(0, 0)

    def no_memory() -> Iterator[Window]:
        yield from windows(tensors, find, rereads=False)
        raise MemoryError

    with (
        Prefetch(no_memory(), Counting(files_of_models(2, [KB])), budget=KB, threads=2) as ahead,
        pytest.raises(MemoryError),
    ):
        ahead.take(1, 0)

    started, go_on = threading.Event(), threading.Event()

    def stall(origin: Origin, start: int, buffer: memoryview) -> None:
        started.set()
        go_on.wait(60)

    with Prefetch(windows(tensors, find, rereads=False), stall, budget=KB, threads=2) as ahead:
        started.wait(60)
        threading.Thread(target=ahead.stop).start()
        with pytest.raises(Cancelled):
            ahead.take(0, 0)
        go_on.set()
    wait_for(lambda: not workers())


def test_windows_are_the_same_for_a_plan_of_any_models_that_need_no_prefetching() -> None:
    tensors, _ = plan_of(2, [KB, KB])

    assert list(windows(tensors, lambda _: None, rereads=False)) == []
    [window] = windows(
        tensors, lambda part: plan_of(2, [KB, KB])[1](part) if part.model else None, rereads=False
    )
    assert isinstance(window, Window)
    assert window.nbytes == 2 * KB


# -- in a merge ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0)
    tiny_llama(folder / "a", 1, base)
    tiny_llama(folder / "b", 2, base, shard="100KB")
    return folder


@pytest.fixture
def alice(hub: Hub, folder: Path) -> str:
    token = hub.add_user("alice")
    for name in ("base", "a", "b"):
        hub.put(f"alice/{name}", folder / name, private=True)
    return token


def recipe(method: str, place: Path | str, other: Path | str | None = None) -> str:
    names = [f"{place}/a", f"{other or place}/b"]
    own = {"parameters": {"weight": 0.6}} if method != "slerp" else {}
    models = [{"model": name, **own} for name in names]
    text: dict[str, object] = {"merge_method": method, "models": models}
    if method == "slerp":
        text |= {"base_model": names[0], "parameters": {"t": 0.3}}
    elif method != "linear":
        text |= {"base_model": f"{place}/base"}
    if method == "ties":
        text |= {"parameters": {"density": 0.4}}
    return yaml.safe_dump(text)


def merged(text: str, to: Path, token: str | None = None, **options: object) -> bytes:
    plan = make_plan(read_recipe(text), str(to), token=token)
    assert plan.problems == ()
    run_plan(plan, str(to), token=token, **options)  # type: ignore[arg-type]
    return (to / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "task_arithmetic"])
def test_the_bits_depend_on_nothing_about_reading(
    method: str, folder: Path, tmp_path: Path, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merged(recipe(method, folder), tmp_path / "folder")

    assert merged(recipe(method, "alice"), tmp_path / "hub", alice) == expected
    assert merged(recipe(method, folder, "alice"), tmp_path / "both", alice, workers=3) == expected
    monkeypatch.setattr("merging.engine.workspace.BLOCK", 1000)
    in_small_blocks = merged(recipe(method, folder), tmp_path / "small blocks")
    monkeypatch.setattr("merging.engine.tensors.BLOCK", 1000)
    monkeypatch.setattr("merging.engine.blocks.SLICE", 2000)
    for budget, resident in ((1, 10**9), (50_000, 20_000)):
        small_windows(monkeypatch, 10_000, 4000, resident)
        monkeypatch.setattr("merging.engine.prefetch.BUDGET", budget)
        to = tmp_path / f"budget {budget}"
        assert merged(recipe(method, "alice"), to, alice, workers=3) == in_small_blocks


def test_a_small_merge_makes_few_requests(folder: Path, tmp_path: Path, hub: Hub, alice: str) -> None:
    plan = make_plan(read_recipe(recipe("ties", "alice")), token=alice)
    hub.log.clear()

    run_plan(plan, str(tmp_path / "out"), token=alice)

    shards = len(list((folder / "b").glob("*.safetensors")))
    files = 2 + shards
    # A header and a range each; one by one, the tensors would take 114 requests.
    assert len(hub.log.find("GET", "^/lfs/.*safetensors")) == 2 * files
    assert len(hub.log.find("HEAD", "/resolve/.*safetensors$")) == files


def test_cancel_ends_reads_that_stall(tmp_path: Path, hub: Hub, alice: str) -> None:
    plan = make_plan(read_recipe(recipe("linear", "alice")), token=alice)
    # Each file's header comes, then nothing: neither the answer's beginning, nor (by `rate`) its end.
    for stall in ({"delay": STALLED}, {"rate": 1}):
        hub.clear_faults()
        hub.log.clear()
        stalled = hub.fault("GET", "^/lfs/", skip=5, times=None, **stall)
        cancel = threading.Event()
        cancelled_at = []

        def when_it_stalls(progress: Progress, stalled=stalled, cancel=cancel, at=cancelled_at) -> None:
            if stalled.hits and not at:
                at.append(time.monotonic())
                cancel.set()

        with pytest.raises(Cancelled):
            run_plan(plan, str(tmp_path / "out"), token=alice, on_progress=when_it_stalls, cancel=cancel)

        assert time.monotonic() - cancelled_at[0] < SOON
        wait_for(lambda: not workers())
        assert list(tmp_path.iterdir()) == []


def test_a_read_that_fails_ends_the_merge_and_its_threads(
    tmp_path: Path, hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoints.repositories.hub.HubRepository._pause", lambda *_: None)
    monkeypatch.setattr("checkpoints.repositories.hub.READ_TIMEOUT", STALLED)
    plan = make_plan(read_recipe(recipe("linear", "alice")), token=alice)
    hub.fault("GET", "^/lfs/alice/a/", skip=1, status=500, times=None)
    hub.fault("GET", "^/lfs/alice/b/", skip=4, delay=STALLED, times=None)
    began = time.monotonic()

    with pytest.raises(CheckpointError, match=r"alice/a: .*could not be read \(status 500\)"):
        run_plan(plan, str(tmp_path / "out"), token=alice)

    assert time.monotonic() - began < SOON  # and not when the other model's read ends
    wait_for(lambda: not workers())


PEAK = """
import pathlib, sys, threading
from merging.__main__ import main
peak, ended = 0, threading.Event()
def watch():
    global peak
    while not ended.wait(0.01):
        status = pathlib.Path("/proc/self/status").read_text()
        peak = max(peak, int(status.partition("RssAnon:")[2].split()[0]) * 1024)
watcher = threading.Thread(target=watch)
watcher.start()
status = main(["run", sys.argv[1], "--to", sys.argv[2]])
ended.set()
watcher.join()
print(status, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_the_memory_is_what_the_plan_estimated(method: str, hub: Hub, tmp_path: Path) -> None:
    """Models of 130 MB, of which one tensor is too large to be held for a method that rereads it."""
    token = hub.add_user("alice")
    for seed, name in enumerate(("base", "a", "b")):
        folder = tiny_llama(tmp_path / name, seed)
        generator = torch.Generator().manual_seed(seed)
        weights = {f"model.layers.{i}.x": torch.randn(4 << 20, generator=generator) for i in range(4)}
        weights["model.embed_tokens.weight"] = torch.randn(16 << 20, generator=generator)
        halves = {name: weight.bfloat16() for name, weight in weights.items()}
        save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
        hub.put(f"alice/{name}", folder)
    (tmp_path / "recipe.yaml").write_text(recipe(method, "alice"))
    estimated = make_plan(
        read_recipe(recipe(method, "alice")), str(tmp_path / "out"), token=token
    ).peak_memory_bytes

    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "recipe.yaml"), str(tmp_path / "out")],
        env={**os.environ, "HF_TOKEN": token, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    status, peak = map(int, done.stdout.split()[-2:])
    assert status == 0
    # Never more than was estimated: processes are killed for that.
    assert 0.75 * estimated < peak <= estimated

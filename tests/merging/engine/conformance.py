"""What every engine has to do. An engine of your own passes when `check_engine` does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from merging import Cancelled, CheckpointError, Plan, Problem, Progress, make_plan, read_recipe, run_plan
from merging.destinations import Receipt
from merging.engine import tensors
from merging.engine.engine import Engine
from tests.merges import files, ties, weight_files

SIZE = 60_000  # bytes a shard: six of them, and one that is as large as the embedding


def planned(folder: Path, to: Path) -> Plan:
    plan = make_plan(read_recipe(ties(folder)), str(to), shard_size=SIZE)
    assert plan.problems == ()
    return plan


class Recording:
    """An engine that keeps the receipts of another one."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.name = engine.name
        self.receipts: list[Receipt] = []

    def suits(self, merge: Any, shards: Any) -> bool:
        return self.engine.suits(merge, shards)

    def run(self, merge: Any, shards: Any) -> Any:
        for receipt in self.engine.run(merge, shards):
            self.receipts.append(receipt)
            yield receipt


def makes_every_shard_once(engine: Engine, folder: Path, tmp_path: Path) -> None:
    plan = planned(folder, tmp_path / "one")
    run_plan(plan, str(tmp_path / "one"), workers=1)
    recording = Recording(engine)

    result = run_plan(plan, str(tmp_path / "out"), workers=3, on=recording)

    assert weight_files(tmp_path / "out") == weight_files(tmp_path / "one")
    made = {receipt.filename: receipt for receipt in recording.receipts}
    assert len(recording.receipts) == len(made) == len(plan.shards)
    for shard in plan.shards:
        receipt = made[shard.filename]
        assert receipt.size == shard.bytes == (tmp_path / "out" / shard.filename).stat().st_size
        assert receipt.seconds > 0
        assert receipt.processor not in ("", "any")
        assert (receipt.read_by, receipt.written_by) == (("folder",), ("folder",))
        assert Receipt.from_json(receipt.to_json()) == receipt
    assert (result.read_by, result.written_by) == (("folder",), ("folder",))


def counts_what_is_merged(engine: Engine, folder: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    plan = planned(folder, tmp_path / "out")

    run_plan(plan, str(tmp_path / "out"), workers=2, on=engine, on_progress=seen.append)

    assert {progress.phase for progress in seen} == {"read headers", "merge", "upload", "finish"}
    done = [(progress.bytes_done, progress.tensors_done) for progress in seen]
    assert done == sorted(done)
    assert done[-1] == (plan.bytes_out, len(plan.tensors))


def instead_of_merging(
    monkeypatch: pytest.MonkeyPatch, tensor: str, act: Callable[[Callable[[], None]], object]
) -> None:
    """Act where a tensor is merged, whichever process merges it; `act` is given what raises to stop."""
    merge = tensors.computed

    def computed(plan: Any, planned: Any, *rest: Any) -> Iterator[Any]:
        if planned.name == tensor:
            act(rest[-1])
        return merge(plan, planned, *rest)

    monkeypatch.setattr(tensors, "computed", computed)


def raises_what_a_worker_raised(
    engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(folder, tmp_path / "out")
    problem = Problem("model-changed", {"model": "a/b"}, "a/b")
    errors = iter([CheckpointError(problem), ZeroDivisionError("of nobody's making")])

    for kind, text in ((CheckpointError, "a/b"), (ZeroDivisionError, "nobody's making")):
        error = next(errors)

        def fail(check: Callable[[], None], error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            instead_of_merging(patch, plan.shards[3].tensors[0].name, fail)
            with pytest.raises(kind, match=text) as caught:
                run_plan(plan, str(tmp_path / "out"), workers=2, on=engine)
        if isinstance(caught.value, CheckpointError):
            assert caught.value.problems == (problem,)
        assert not any(tmp_path.iterdir())


def stops_when_told_to(engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While every worker is in the middle of a tensor."""
    plan = planned(folder, tmp_path / "out")
    cancel, reading, writing = threading.Event(), *os.pipe()

    def hang(check: Callable[[], None]) -> None:
        os.write(writing, b"!")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            check()
            threading.Event().wait(0.02)
        raise TimeoutError(
            "the engine never called `merge.pulse` while a tensor was merged, or did not stop its workers"
        )

    def watch(progress: Progress) -> None:
        if progress.phase == "merge" and os.get_blocking(reading) is False:
            try:
                os.read(reading, 1)
            except BlockingIOError:
                return
            cancel.set()

    os.set_blocking(reading, False)
    instead_of_merging(monkeypatch, plan.shards[2].tensors[0].name, hang)
    with pytest.raises(Cancelled):
        run_plan(plan, str(tmp_path / "out"), workers=2, on=engine, on_progress=watch, cancel=cancel)

    assert not any(tmp_path.iterdir())
    os.close(reading)
    os.close(writing)


def ends_on_an_error_of_the_caller(engine: Engine, folder: Path, tmp_path: Path) -> None:
    plan = planned(folder, tmp_path / "out")

    def fail(progress: Progress) -> None:
        if progress.phase == "merge":
            raise RuntimeError("the page is gone")

    with pytest.raises(RuntimeError, match="the page is gone"):
        run_plan(plan, str(tmp_path / "out"), workers=2, on=engine, on_progress=fail)

    assert not any(tmp_path.iterdir())


def check_engine(engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the above; `folder` has the models of the fixture of this name."""
    for check in (makes_every_shard_once, counts_what_is_merged, ends_on_an_error_of_the_caller):
        place = tmp_path / check.__name__
        place.mkdir()
        check(engine, folder, place)
    for failing in (raises_what_a_worker_raised, stops_when_told_to):
        place = tmp_path / failing.__name__
        place.mkdir()
        with monkeypatch.context() as patch:
            failing(engine, folder, place, patch)
    assert files(folder / "a")

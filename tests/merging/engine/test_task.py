"""Shards made elsewhere: everything that a worker needs goes through JSON, and nothing is asked for twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from merging import DestinationError, MergeError, make_plan, read_recipe, run_plan
from merging.engine.task import Task, make_shards
from tests.hub import Hub
from tests.merges import merged, ties, weight_files, weights
from tests.merging.engine import conformance
from tests.merging.engine.elsewhere import Elsewhere

OUT = "hf://alice/out"
SIZE = 60_000


def test_an_engine_of_workers_elsewhere_conforms(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Elsewhere()
    for check in (conformance.makes_every_shard_once, conformance.counts_what_is_merged):
        (tmp_path / check.__name__).mkdir()
        check(engine, folder, tmp_path / check.__name__)
    place = tmp_path / "errors"
    place.mkdir()
    conformance.raises_what_a_worker_raised(engine, folder, place, monkeypatch)
    conformance.ends_on_an_error_of_the_caller(engine, folder, place)


def test_from_hub_to_hub(hub: Hub, alice: str, folder: Path, tmp_path: Path) -> None:
    """Workers send files, the driver commits; no token and no address of another store is in a task."""
    merged(ties(folder), tmp_path / "right", SIZE)
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    engine = Elsewhere()
    hub.log.clear()

    result = run_plan(plan, OUT, token=alice, on=engine)

    assert result.verified
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")
    assert [*hub.repo("alice/out").refs] == ["main"]
    assert not any(alice in task for task in engine.tasks)
    # The driver asks for each model once, and workers never.
    assert len(hub.log.find("GET", "^/api/models/alice/(base|a|b)/revision/")) <= 3
    assert len(engine.tasks) == -(-len(plan.shards) // 3)
    assert max(map(len, engine.tasks)) < len(plan.to_json()) + 20_000


def test_a_failed_merge_continues_elsewhere(hub: Hub, alice: str, folder: Path, tmp_path: Path) -> None:
    merged(ties(folder), tmp_path / "right", SIZE)
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    hub.fault("PUT", "^/upload/", status=403, skip=3, times=None)
    with pytest.raises(DestinationError):
        run_plan(plan, OUT, token=alice, on=Elsewhere(together=1))
    hub.clear_faults()
    hub.log.clear()

    result = run_plan(plan, OUT, token=alice)

    assert "an earlier run" in result.written_by
    assert 0 < len(hub.log.find("PUT", "^/upload/")) < len(plan.shards)
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")


def chain(place: Path | str) -> str:
    """TIES of a merge that is made on the way."""
    linear: dict[str, Any] = {
        "name": "mean",
        "merge_method": "linear",
        "models": [{"model": f"{place}/{m}", "parameters": {"weight": 1}} for m in "ab"],
    }
    outer = yaml.safe_load(ties(place))
    outer["models"][0]["model"] = "mean"
    return yaml.safe_dump_all([linear, outer])


@pytest.mark.parametrize("recipe", [ties, chain])
def test_a_task_goes_through_json(recipe: Any, folder: Path, tmp_path: Path) -> None:
    plan = make_plan(read_recipe(recipe(folder)), shard_size=SIZE)
    merged(recipe(folder), tmp_path / "right", SIZE)
    engine = Elsewhere(together=2)

    run_plan(plan, str(tmp_path / "out"), on=engine)

    assert weight_files(tmp_path / "out") == weight_files(tmp_path / "right")
    for text in engine.tasks:
        task = Task.from_json(text)
        assert Task.from_json(task.to_json()) == task
        assert len(task.plan.shards) <= 2


def test_a_worker_with_other_software_or_processor_makes_nothing(folder: Path, tmp_path: Path) -> None:
    plan, engine = make_plan(read_recipe(ties(folder)), shard_size=SIZE), Elsewhere()
    run_plan(plan, str(tmp_path / "out"), on=engine)
    before = weight_files(tmp_path / "out")
    task = Task.from_json(engine.tasks[0])

    for changed, code in (
        (replace(task, software=("arithmetic 0", *task.software[1:])), "other-software"),
        (replace(task, processor="m68k-default"), "other-processor"),
    ):
        with pytest.raises(MergeError) as caught:
            next(make_shards(changed))
        assert [problem.code for problem in caught.value.problems] == [code]
    assert weight_files(tmp_path / "out") == before

"""What the browser remembers of merges, and what is believed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from merging import Plan, Result, make_plan, read_recipe
from merging.destinations import ResultPlace
from merging.planning.confined_plan import PlanRequest
from tests.hub import Hub
from tests.ui.merge.test_destination import LAPTOP, SPACE
from tests.ui.test_page import LINEAR, ann, until_ended  # noqa: F401
from ui.host import Host
from ui.hub.account import Account
from ui.merge.history import id_of, record, record_of_result, restored
from ui.server.jobs import JobBoard, JobStatus, MergeRequest
from ui.server.merge_service import MergeService

ORDER = MergeRequest("merge_method: linear\n", "hf://ann/x", private=False, overwrite=True, gguf=("Q8_0",))
JOB = JobStatus("id", "ann/x", ("a/a",), "running", request=ORDER)
FILES = ResultPlace("hf://ann/x-GGUF", "https://hub/ann/x-GGUF", "def", verified=True)
RESULT = Result("hf://ann/x", "https://hub/ann/x", "abc", 10, 1.5, verified=True, gguf=FILES)


def through_the_browser(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_a_job_comes_back_from_the_browser() -> None:
    kept = through_the_browser(record(JOB))

    lost, done = (
        restored(SPACE, kept, None),
        restored(SPACE, kept, through_the_browser(record_of_result(RESULT))),
    )

    assert id_of(kept) == "id"
    assert lost
    assert (lost.state, lost.request, lost.models) == ("failed", ORDER, ("a/a",))
    assert "Nothing on the Hub is lost" in lost.problems[0].fix
    assert done
    assert (done.state, done.result) == ("done", RESULT)


def test_a_folder_comes_back_on_a_laptop_alone() -> None:
    kept = record(JobStatus("id", "x", (), "running", request=MergeRequest("x", "/results/x")))

    back = restored(LAPTOP, kept, None)

    assert back
    assert back.request.to == "/results/x"
    assert restored(SPACE, kept, None) is None


@pytest.mark.parametrize(
    "kept",
    [None, "id", [], {}, {"recipe": 1, "to": "hf://a/b"}, {"recipe": "x", "to": "/etc"}, {"recipe": "x", "to": "../x"},
     {"recipe": "x", "to": 3}, {"recipe": "x", "to": ""}, {"recipe": "x", "to": "hf://a/../b"}],
)  # fmt: skip
def test_what_a_visitor_wrote_into_the_storage_is_not_believed(kept: object) -> None:
    assert restored(SPACE, kept, None) is None
    assert isinstance(id_of(kept), str)


@pytest.mark.parametrize("gguf", [None, "x", {}, {"location": "hf://eve/x-GGUF"}, {"location": 3}])
def test_gguf_files_elsewhere_are_none_of_the_result(gguf: object) -> None:
    back = restored(SPACE, record(JOB), {**record_of_result(RESULT), "gguf": gguf})

    assert back and back.result
    assert back.result.gguf is None


@pytest.mark.parametrize(
    "result",
    ["x", [], {}, {"location": "/etc/passwd"}, {"location": "hf://ann/x", "bytes": "many", "seconds": 1}],
)
def test_a_result_that_cannot_be_is_none(result: object) -> None:
    back = restored(SPACE, record(JOB), result)

    assert back
    assert back.state == "failed"


def planned_in_small_shards(request: PlanRequest) -> Plan:
    given = {name: value for name, value in vars(request).items() if name != "environment"}
    return make_plan(read_recipe(given.pop("recipe")), shard_size=20_000, **given)


def test_after_a_restart_a_merge_goes_on_from_the_journal(
    ann: str,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host.from_environment({"SPACE_ID": "you/alloy", "ALLOY_DOWNLOADS": str(tmp_path / "downloads")})
    monkeypatch.setattr("ui.server.merge_service.confined_plan", planned_in_small_shards)
    before, who = MergeService(host, JobBoard()), Account("visitor", ann)
    plan = before.plan(LINEAR, "hf://ann/long", who, "")
    assert len(plan.shards) > 4
    # The server dies when some shards are on the Hub: here the Hub takes no more of them.
    uploads = hub.fault("PUT", "^/upload/", status=400, skip=3, times=None)
    job = before.merge(plan, "hf://ann/long", who, "ann", private=True, overwrite=False)
    kept = through_the_browser(record(before.job(job)))
    assert until_ended(before, job).state == "failed"
    assert "ann/long" in hub.repos
    hub.clear_faults()
    hub.log.clear()

    server = MergeService(host, JobBoard())
    assert server.board.status(job) is None
    lost = restored(host, kept, None)
    assert lost
    done = until_ended(server, server.again(lost, who, "ann"))

    assert done.state == "done", done.problems
    sent = [
        exchange for exchange in hub.log if exchange.method == "PUT" and exchange.path.startswith("/upload/")
    ]
    assert 0 < len(sent) < len(plan.shards), uploads.hits
    assert ann not in repr(kept)

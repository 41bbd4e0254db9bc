"""Merges on rented machines, against jobs that really run: by the Hub's own client, from the offer to the result."""

from __future__ import annotations

import base64
import gzip
import io
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
import pytest
from huggingface_hub import HfApi

from checkpoints.problems import Cancelled
from merging import MergeError, Plan
from merging.rented_machines import Needs, RentedMachine, machines, offers, timeout
from tests import ROOT
from tests.hub import Hub
from tests.hub.rented import HARDWARE, RentedJob
from tests.merges import files, merged, ties, wait_for, weight_files, weights
from tests.ui.rented.rooms import furnish
from tests.ui.test_cards import shown
from ui.host import Host
from ui.hub.account import Account
from ui.merge.history import is_lost, record, record_of_result, restored
from ui.merge.job_card import job_card
from ui.rented import code
from ui.rented.job import INSTALL
from ui.rented.merge import SCRIPT, begin, begin_again, found_again
from ui.rented.panel import RentPanel
from ui.server.jobs import JobBoard, JobStatus
from ui.server.merge_service import MergeService

TO = "hf://alice/out"
MACHINE = "cpu-upgrade"


@pytest.fixture
def who(alice: str, monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.setattr("ui.rented.job.POLL", 0.05)
    return Account("machine", alice)


@pytest.fixture
def rooms(hub: Hub, tmp_path: Path) -> Callable[..., None]:
    """Furnishes the machines, see `furnish`."""

    def again(before: str = "") -> None:
        furnish(hub, tmp_path, before)

    again()
    return again


@pytest.fixture
def plan(service: MergeService, who: Account) -> Plan:
    found = service.plan(ties("alice") + "# $(touch /tmp/x) '; \"`\n", TO, who, "alice")
    assert found.problems == ()
    return found


def rented(service: MergeService, plan: Plan, who: Account, to: str = TO, **options: Any) -> str:
    ways = {"private": True, "overwrite": False, **options}
    return begin(service, plan, to, who, "alice", MACHINE, 100.0, **ways)


def until(service: MergeService, job: str, *states: str) -> JobStatus:
    wait_for(lambda: service.job(job).state in states, 90)
    return service.job(job)


def only(hub: Hub) -> RentedJob:
    [job] = hub.rented.jobs.values()
    return job


def test_a_merge_runs_there(
    hub: Hub, who: Account, service: MergeService, plan: Plan, rooms: object, folder: Path, tmp_path: Path
) -> None:
    merged(ties(folder), tmp_path / "right", 10**9)

    job = rented(service, plan, who)
    done = until(service, job, "done", "failed")

    assert done.problems == (), only(hub).lines
    assert done.result
    assert done.result.verified
    assert done.result.commit == hub.repo("alice/out").history()[0].id
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")
    spec = only(hub).spec
    assert spec["flavor"] == MACHINE
    assert spec["attempts"] == 2
    assert spec["timeoutSeconds"] == 3600
    assert spec["labels"]["alloy"] == plan.fingerprint
    assert gzip.decompress(base64.b64decode(spec["environment"]["RECIPE"])).decode() == plan.recipe
    assert done.progress
    assert done.progress.bytes_done == done.progress.bytes_total
    # The token is among the secrets, and nowhere else.
    assert spec["secrets"] == {"HF_TOKEN": who.token}
    told = json.dumps({**spec, "secrets": None}) + repr(only(hub).lines) + repr(done) + repr(record(done))
    assert str(who.token) not in told
    card = shown(job_card(done)).text
    assert "On a rented machine: cpu-upgrade" in card
    assert "Verified" in card


def test_nothing_of_the_visitor_is_in_the_command(
    hub: Hub, who: Account, service: MergeService, plan: Plan
) -> None:
    hub.rented.hold = True

    rented(service, plan, who, private=False, overwrite=True)

    assert only(hub).spec["command"] == ["bash", "-c", INSTALL + SCRIPT, "alloy", "--overwrite", "--public"]


def test_a_stop_ends_the_machine(
    hub: Hub, who: Account, service: MergeService, plan: Plan, rooms: Callable[..., None]
) -> None:
    rooms("sleep 100")
    job = rented(service, plan, who)
    wait_for(lambda: only(hub).stage == "RUNNING")

    service.board.cancel(job)

    ended = until(service, job, "cancelled")
    assert only(hub).stage == "CANCELED"
    wait_for(only(hub).ended.is_set)
    assert "kept in a branch" in shown(job_card(ended)).text


def test_it_is_found_again_after_a_restart(
    hub: Hub, who: Account, service: MergeService, plan: Plan, rooms: Callable[..., None], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    rooms(f"while [ ! -e {gate} ]; do sleep 0.05; done")
    job = rented(service, plan, who)
    kept = json.loads(json.dumps(record(service.job(job))))
    later = MergeService(service.host, JobBoard())
    lost = restored(later.host, kept, None)
    assert lost
    assert is_lost(lost)

    assert found_again(later, lost, Account("nobody"), "x") == lost
    found = found_again(later, lost, who, "alice")
    assert found.state == "running"
    assert found.id == job
    assert found_again(later, lost, who, "alice").id == job
    gate.touch()
    done = until(later, job, "done", "failed")

    assert done.result
    assert done.result.verified
    again = restored(later.host, kept, record_of_result(done.result))
    assert again
    assert (again.state, again.request.rented) == ("done", done.request.rented)
    assert not is_lost(again)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        "x",
        {},
        {"namespace": "a/b", "id": "1", "flavor": "x"},
        {"namespace": "a", "id": "../x", "flavor": "x"},
    ],
)
def test_what_a_browser_made_up_is_no_machine(kept: object, service: MergeService) -> None:
    found = restored(service.host, {"id": "1", "recipe": "x", "to": TO, "rented": kept}, None)
    assert found
    assert found.request.rented is None


@pytest.mark.nightly
def test_a_problem_there_is_shown_here(
    hub: Hub, who: Account, service: MergeService, plan: Plan, rooms: object
) -> None:
    hub.repos.pop("alice/b")

    failed = until(service, rented(service, plan, who), "done", "failed")

    assert failed.state == "failed"
    assert {problem.code for problem in failed.problems} != {"rented-failed"}
    assert "alice/b" in str(failed.problems[0])
    assert only(hub).runs == 2


@pytest.mark.nightly
def test_a_machine_that_is_lost_is_followed_by_another(
    hub: Hub, who: Account, service: MergeService, plan: Plan, rooms: Callable[..., None], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    rooms(f"if [ ! -e {mark} ]; then touch {mark}; sleep 100; fi")
    job = rented(service, plan, who)
    wait_for(mark.exists, 90)

    hub.rented.lose(only(hub))

    assert until(service, job, "done", "failed").state == "done"
    assert only(hub).runs == 2


@pytest.mark.nightly
def test_a_machine_that_fails_without_a_word(
    hub: Hub, who: Account, service: MergeService, plan: Plan, rooms: Callable[..., None]
) -> None:
    rooms("exit 7")
    failed = until(service, rented(service, plan, who), "failed")

    assert [problem.code for problem in failed.problems] == ["rented-failed"]
    assert "exit code: 7" in str(failed.problems[0])
    rooms()
    again = begin_again(service, failed, who, "alice")
    assert until(service, again, "done", "failed").state == "done"


@pytest.mark.parametrize(
    ("status", "code"), [(402, "rented-unpaid"), (403, "rented-refused"), (500, "rented-hub")]
)
def test_the_hub_refuses(
    status: int, code: str, hub: Hub, who: Account, service: MergeService, plan: Plan
) -> None:
    hub.fault("POST", "^/api/jobs/alice$", status=status, times=None)

    with pytest.raises(MergeError) as caught:
        rented(service, plan, who)

    assert [problem.code for problem in caught.value.problems] == [code]
    assert not hub.rented.jobs


def test_a_sign_in_without_the_permission(hub: Hub, who: Account, service: MergeService, plan: Plan) -> None:
    hub.rented.without_scope.add(str(who.token))
    with pytest.raises(MergeError, match="may not rent machines"):
        rented(service, plan, who)
    with pytest.raises(MergeError, match="may not rent machines"):
        rented(service, plan, Account("nobody"))


@pytest.mark.parametrize(
    ("scopes", "source", "may_rent", "rents", "allows"),
    [
        ("openid profile jobs", "nobody", False, False, True),
        ("openid profile jobs", "visitor", False, False, True),
        ("openid profile jobs", "visitor", True, True, False),
        ("openid profile", "visitor", False, False, False),
    ],
)
def test_a_space_asks_for_the_permission_first(
    scopes: str, source: Any, may_rent: bool, rents: bool, allows: bool, hub: Hub, alice: str
) -> None:
    host = Host.from_environment({"SPACE_ID": "you/alloy", "OAUTH_CLIENT_ID": "x", "OAUTH_SCOPES": scopes})
    with gr.Blocks():
        panel = RentPanel(host)

    shown = panel.show(
        Needs.lasting(10**9, 60.0), Account(source, alice if source == "visitor" else None, may_rent)
    )

    assert (shown[panel.go]["visible"], shown[panel.allow]["visible"]) == (rents, allows)
    assert ("one more permission" in str(shown[panel.offers])) is allows
    assert shown[panel.machine]["visible"]


def test_a_stop_that_the_hub_does_not_take_is_asked_for_again(
    hub: Hub, who: Account, service: MergeService, plan: Plan
) -> None:
    """A machine that runs on costs money."""
    hub.rented.hold = True
    job = rented(service, plan, who)
    refused = hub.fault("POST", "/cancel$", status=503, times=3)

    service.board.cancel(job)

    assert until(service, job, "cancelled", "failed").state == "cancelled"
    assert (only(hub).stage, refused.hits) == ("CANCELED", 3)


def test_a_stop_that_comes_too_late_shows_the_end(
    hub: Hub, who: Account, service: MergeService, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.rented.job.LATE_SECONDS", 0.1)
    hub.rented.hold = True
    job = rented(service, plan, who)
    hub.fault("POST", "/cancel$", status=409, times=None)
    hub.fault("GET", "/logs", status=500, times=None)
    only(hub).stage, only(hub).message = "ERROR", "Job timeout"

    service.board.cancel(job)

    failed = until(service, job, "cancelled", "failed")
    assert [problem.code for problem in failed.problems] == ["rented-failed"]
    assert "Job timeout" in str(failed.problems[0])


def test_a_hub_that_no_longer_answers(
    hub: Hub, who: Account, service: MergeService, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.rented.job.MISSES", 3)
    hub.rented.hold = True
    hub.fault("GET", "^/api/jobs/alice/", status=503, times=None)

    failed = until(service, rented(service, plan, who), "failed")

    [problem] = failed.problems
    assert problem.code == "rented-unseen"
    assert only(hub).id in str(problem)


@pytest.mark.nightly
def test_a_hub_that_stumbles_is_asked_again(
    hub: Hub, who: Account, service: MergeService, plan: Plan, rooms: object
) -> None:
    hub.fault("GET", "^/api/jobs/alice/", status=503, times=5)
    assert until(service, rented(service, plan, who), "done", "failed").state == "done"


def test_rented_machines_take_no_place_in_the_line(
    hub: Hub, who: Account, service: MergeService, plan: Plan
) -> None:
    hub.rented.hold = True
    jobs = [rented(service, plan, who, to=f"{TO}-{number}") for number in range(6)]

    with pytest.raises(MergeError) as caught:
        rented(service, plan, who)

    assert [problem.code for problem in caught.value.problems] == ["too-many-jobs"]
    assert len(hub.rented.jobs) == 6
    ran = threading.Event()

    def run(report: object, cancel: threading.Event) -> NoReturn:
        ran.set()
        raise Cancelled

    service.board.submit("alice", "x", (), run)
    assert ran.wait(60)
    for job in jobs:
        service.board.cancel(job)


def test_the_machines_and_what_they_cost(hub: Hub, alice: str, plan: Plan) -> None:
    there = machines(HfApi(token=alice))
    assert [(m.name, m.cpus, m.memory, m.has_gpu) for m in there] == [
        ("cpu-basic", 2, 16 * 10**9, False),
        ("cpu-upgrade", 8, 32 * 10**9, False),
        ("cpu-xl", 16, 124 * 10**9, False),
        ("t4-small", 4, 15 * 10**9, True),
    ]
    needs = Needs.of(plan)
    assert needs.seconds(16) <= needs.seconds(2)
    large = replace(needs, memory=30 * 10**9)
    assert [offer.machine.name for offer in offers(large, there)] == ["cpu-xl"]
    assert offers(replace(needs, memory=200 * 10**9), there) == []
    cheapest, *others = offers(needs, there)
    assert cheapest.machine.name == "cpu-basic"
    assert all(offer.dollars >= cheapest.dollars and not offer.machine.has_gpu for offer in others)
    # By the minute, begun ones whole: 122 seconds are three of them.
    assert cheapest.dollars == pytest.approx(3 * 0.000167)
    with_gpu = RentedMachine("gpu", "GPU", 8, 300 * 10**9, 0.1, has_gpu=True)
    assert [o.machine.name for o in offers(replace(needs, memory=200 * 10**9), [*there, with_gpu])] == ["gpu"]
    assert (timeout(10), timeout(7200)) == (3600, 28800)


def test_a_second_machine_for_the_same_result_is_refused(
    hub: Hub, who: Account, service: MergeService, plan: Plan
) -> None:
    """Before it costs anything, and until the first one has ended."""
    hub.rented.hold = True
    first = rented(service, plan, who)

    with pytest.raises(MergeError) as caught:
        rented(service, plan, who)

    assert [problem.code for problem in caught.value.problems] == ["rented-already"]
    assert only(hub).id in str(caught.value.problems[0])
    service.board.cancel(first)
    until(service, first, "cancelled")
    service.board.cancel(rented(service, plan, who))


@pytest.mark.parametrize(
    "odd",
    [
        {"ram": None},
        {"ram": "1.2.3 GB"},
        {"ram": "plenty"},
        {"cpu": None},
        {"unitCostUSD": None},
        {"unitLabel": "job"},
    ],
)
def test_a_machine_that_nobody_can_read_is_not_offered(
    odd: dict[str, Any], hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.hub.routes_jobs.HARDWARE", [{**HARDWARE[0], **odd}, HARDWARE[1]])

    assert [machine.name for machine in machines(HfApi(token=alice))] == ["cpu-upgrade"]


def test_the_archive_is_the_program(tmp_path: Path) -> None:
    content = code.archive()
    code.archive.cache_clear()
    assert code.archive() == content
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        names = set(file.namelist())
    assert {"pyproject.toml", "README.md", "LICENSE", "alloy/__main__.py", "checkpoints/py.typed"} <= names
    assert not [name for name in names if name.startswith(("ui/", "tests/", ".")) or "__pycache__" in name]
    for package in code.PACKAGES:
        ours = {
            path.suffix
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert ours <= {*code.SUFFIXES}, package
    assert files(tmp_path) == {}

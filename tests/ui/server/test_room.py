"""Memory and disk are looked for before a merge starts, and kept while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation import EvaluationError, hold_memory
from merging import MergeError, Problem, Result
from tests.hub import Hub
from tests.ui.test_page import LINEAR, ann, until_ended  # noqa: F401
from ui.host import Host
from ui.hub.account import Account
from ui.server.jobs import JobBoard, JobStatus
from ui.server.merge_service import MergeService


@pytest.fixture
def service(tmp_path: Path) -> MergeService:
    host = Host.from_environment({"SPACE_ID": "you/alloy", "ALLOY_DOWNLOADS": str(tmp_path / "downloads")})
    return MergeService(host, JobBoard())


def merge(
    service: MergeService, who: Account, to: str = "hf://ann/merged", download: bool = False
) -> JobStatus:
    plan = service.plan(LINEAR, None if download else to, who, "")
    job = service.merge(plan, to, who, "ann", private=True, overwrite=False, download=download)
    return until_ended(service, job)


def set_memory(monkeypatch: pytest.MonkeyPatch, total: int, free: Callable[[], int]) -> None:
    for module in ("evaluation.model", "ui.server.merge_service"):
        monkeypatch.setattr(f"{module}.machine_memory", lambda: total)
        monkeypatch.setattr(f"{module}.free_memory", free)


def test_what_never_fits_is_refused_before_it_stands_in_line(
    service: MergeService,
    ann: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_memory(monkeypatch, 10**8, lambda: 10**8)

    with pytest.raises(MergeError) as refused:
        merge(service, Account("visitor", ann))

    [problem] = refused.value.problems
    assert (problem.code, "larger machine" in problem.fix) == ("machine-too-small", True)


def test_what_does_not_fit_now_fails_with_advice_and_fits_later(
    service: MergeService,
    ann: str,  # noqa: F811
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who, free = Account("visitor", ann), [10**8]
    set_memory(monkeypatch, 10**11, lambda: free[0])

    failed = merge(service, who)
    free[0] = 10**10
    done = until_ended(service, service.again(failed, who, "ann"))

    assert [(problem.code, "Try again" in problem.fix) for problem in failed.problems] == [
        ("no-memory", True)
    ]
    assert done.state == "done"
    assert hub.repo("ann/merged").private


def test_while_a_merge_runs_its_memory_is_its_own(
    service: MergeService,
    ann: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who, tried = Account("visitor", ann), threading.Event()
    plan = service.plan(LINEAR, "hf://ann/merged", who, "")
    set_memory(monkeypatch, 10**11, lambda: plan.peak_memory_bytes + 1000)

    def run(*_: object, **__: object) -> Result:
        with pytest.raises(EvaluationError), hold_memory(2000):
            pass
        with hold_memory(500):
            tried.set()
        return Result("hf://ann/merged", None, None, 0, 0.0)

    monkeypatch.setattr("ui.server.merge_service.run_plan", run)
    until_ended(service, service.merge(plan, "hf://ann/merged", who, "ann", private=True, overwrite=False))

    assert tried.is_set()
    with hold_memory(2000):  # it is free again
        pass


def test_downloads_that_wait_or_fail_take_no_room_from_others(
    service: MergeService,
    ann: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who, gate = Account("visitor", ann), threading.Event()
    service.downloads._most = int(1.5 * service.plan(LINEAR, None, who, "").bytes_out)

    def hold(*_: object) -> Result:
        assert gate.wait(60)
        return Result("hf://gate/keeper", None, None, 0, 0.0)

    service.board.submit("gatekeeper", "gate", (), hold)
    plan = service.plan(LINEAR, None, who, "")
    waiting = [
        service.merge(plan, f"n{n}", who, "ann", private=True, overwrite=False, download=True)
        for n in range(2)
    ]
    assert service.board.cancel(waiting[0])

    def fail(*_: object, **__: object) -> Result:
        raise MergeError(Problem("silent"))

    with monkeypatch.context() as patched:
        patched.setattr("ui.server.merge_service.run_plan", fail)
        gate.set()
        assert until_ended(service, waiting[1]).state == "failed"

    assert merge(service, who, "mine", download=True).state == "done"
    with pytest.raises(MergeError, match="free here for downloads"):
        service.downloads.place("next", plan.bytes_out)

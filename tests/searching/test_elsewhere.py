"""A search whose trials are scored by a cluster finds what one process finds, and survives lost machines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints.cluster import Call, LossCause, Machine
from checkpoints.problems import Cancelled, MergeError
from searching import SearchError, SearchPlan, elsewhere, plan_search, read_space, run_search
from searching.records import Records
from tests.merging.engine.fake_cluster import GB, FakeCluster
from tests.searching.test_search_of_models import GIVEN, space


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    elsewhere._kept.cache_clear()


def planned(family: Path, cluster: FakeCluster | None, by: str = "nsga2", **settings: Any) -> SearchPlan:
    return plan_search(read_space(space(family, by)), texts=GIVEN, on=cluster, **settings)


def figures(folder: Path) -> dict[Any, Any]:
    return {key: (one.state, one.figures) for key, one in Records(folder / "trials.jsonl").scored.items()}


def test_the_trials_are_those_of_one_process(family: Path, tmp_path: Path) -> None:
    lost = iter([LossCause.DIED])
    cluster = FakeCluster(fate=lambda call, line, lines: next(lost, None))
    plan = planned(family, cluster, token="a token")
    assert plan.ok and plan.workers == 2

    found = run_search(plan, tmp_path / "cluster")
    expected = run_search(planned(family, None), tmp_path / "here")

    assert figures(tmp_path / "cluster") == figures(tmp_path / "here")
    assert found.report.to_dict()["comparisons"] == expected.report.to_dict()["comparisons"]
    assert len({call for call, _ in cluster.calls}) == len(cluster.calls) - 1  # the lost one was made again
    for call, token in cluster.calls:
        assert token == "a token" and "a token" not in call.text
        assert call.cpus == 2 and call.memory <= 8 * GB


def test_a_job_that_is_lost_twice_has_failed_and_the_search_goes_on(family: Path, tmp_path: Path) -> None:
    def fate(call: Call, line: int, lines: int) -> LossCause | None:
        return LossCause.DIED if call.label == "trial 2" else None

    run_search(planned(family, FakeCluster(fate=fate)), tmp_path)

    scored = Records(tmp_path / "trials.jsonl").scored
    failed = scored["trial 2", "search"]
    assert failed.state == "failed" and failed.problem and failed.problem.code == "worker-lost"
    assert scored["trial 3", "search"].state == "done"


def test_a_cluster_that_loses_everything_ends_the_search(family: Path, tmp_path: Path) -> None:
    cluster = FakeCluster(fate=lambda call, line, lines: LossCause.DIED)

    with pytest.raises(SearchError, match="ended without an answer"):
        run_search(planned(family, cluster), tmp_path)


def test_a_stop_ends_the_calls(family: Path, tmp_path: Path) -> None:
    cancel = threading.Event()

    def fate(call: Call, line: int, lines: int) -> LossCause | None:
        if lines == 2:  # two are under way
            cancel.set()
        return None

    cluster = FakeCluster(fate=fate)
    with pytest.raises(Cancelled):
        run_search(planned(family, cluster), tmp_path, cancel=cancel)

    assert cluster.cancelled and not cluster.under_way and not cluster.waiting


@pytest.mark.parametrize(
    ("cluster", "settings", "code"),
    [
        (FakeCluster([Machine(2, GB // 100)]), {}, "larger-than-machines"),
        (FakeCluster(), {"by": "gradient"}, "gradient-on-cluster"),
        (FakeCluster(), {"score": lambda model: 0.0}, "function-on-cluster"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused_before_anything_is_scored(
    family: Path, cluster: FakeCluster, settings: dict[str, Any], code: str
) -> None:
    plan = planned(family, cluster, **settings)

    assert [problem.code for problem in plan.problems] == [code]


def test_workers_are_as_many_as_the_machines_hold(family: Path) -> None:
    cluster = FakeCluster([Machine(9, 8 * GB), Machine(4, 8 * GB), Machine(2, 8 * GB)])

    assert planned(family, cluster).workers == 3  # of four processors each
    assert planned(family, cluster, workers=7).workers == 7
    assert planned(family, FakeCluster([])).workers == 1  # machines that come when they are needed


def test_a_machine_with_other_parents_is_refused(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(family, FakeCluster())
    monkeypatch.setattr(elsewhere, "versions", lambda merge: {**plan.parents, str(family / "a"): "another"})

    with pytest.raises(MergeError, match=r"reads other versions of .*/a than") as raised:
        run_search(plan, tmp_path)
    assert "/b" not in raised.value.problems[0].message

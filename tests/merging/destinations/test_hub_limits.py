"""The Hub's limits are said before a merge begins: sizes of files, files a commit, requests, private room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from merging import Plan, make_plan, read_recipe, run_plan
from merging.destinations.hub_limits import (
    FREE,
    PRO,
    WINDOW,
    HubLimits,
    limits_of,
    refusals,
    requests,
    seconds_waiting,
    warnings,
)
from merging.plan import PlannedShard
from tests.hub import Hub
from tests.merges import ties

GB = 1_000_000_000


def sized(*sizes: int, seconds: float = 60.0) -> Plan:
    """A plan of files of some sizes."""
    shards = tuple(PlannedShard(f"model-{number}", (), size) for number, size in enumerate(sizes))
    return Plan("", "linear", shards=shards, bytes_out=sum(sizes), seconds=seconds)


def codes(plan: Plan, limits: HubLimits = FREE) -> list[str]:
    return [problem.code for problem in (*refusals(plan, "a/b"), *warnings(plan, "a/b", limits))]


def test_an_ordinary_merge_meets_no_limit() -> None:
    assert codes(sized(*[2 * GB] * 8)) == []


@pytest.mark.parametrize(
    ("plan", "limits", "wanted"),
    [
        (sized(501 * GB), HubLimits(1000, None), ["hub-file-too-large"]),
        (sized(201 * GB), HubLimits(1000, None), ["hub-file-large"]),
        (sized(*[GB] * 101), HubLimits(1000, None), ["hub-many-files"]),
        (sized(*[GB // 10] * 500), FREE, ["hub-many-files", "hub-requests"]),
        (sized(*[GB // 10] * 500), PRO, ["hub-many-files"]),
        (sized(*[GB // 10] * 500, seconds=3600), FREE, ["hub-many-files"]),
        (sized(*[5 * GB] * 21), FREE, ["hub-private-room"]),
        (sized(*[5 * GB] * 21), PRO, []),
    ],
)
def test_each_limit_is_said(plan: Plan, limits: HubLimits, wanted: list[str]) -> None:
    assert codes(plan, limits) == wanted


def test_waiting_is_for_the_windows_after_the_first() -> None:
    assert seconds_waiting(1000, FREE, 0) == 0
    assert seconds_waiting(1001, FREE, 0) == WINDOW
    assert seconds_waiting(2001, FREE, 100) == 2 * WINDOW - 100
    assert seconds_waiting(2001, FREE, 5000) == 0


def test_limits_are_those_of_the_account_and_an_organizations_room_is_not_known() -> None:
    assert limits_of({"name": "Alice", "isPro": False}, "alice") == FREE
    assert limits_of({"name": "alice", "isPro": True}, "alice") == PRO
    assert limits_of({"name": "alice", "isPro": True}, "lab") == HubLimits(PRO.requests, None)


def test_a_plan_says_it(hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.destinations.hub_limits.ADVISED_FILES", 3)
    plan = make_plan(read_recipe(ties("alice")), "hf://alice/out", token=alice, shard_size=60_000)
    assert plan.ok
    assert [problem.code for problem in plan.warnings if problem.code.startswith("hub-")] == [
        "hub-many-files"
    ]
    monkeypatch.setattr("merging.destinations.hub_limits.MOST_BYTES", 60_000)
    plan = make_plan(read_recipe(ties("alice")), "hf://alice/out", token=alice, shard_size=1_000_000)
    assert [problem.code for problem in plan.problems] == ["hub-file-too-large"]


def test_requests_are_estimated_above_what_is_seen_and_near_it(hub: Hub, alice: str) -> None:
    plan = make_plan(read_recipe(ties("alice")), "hf://alice/out", token=alice, shard_size=60_000)
    hub.log.clear()
    run_plan(plan, "hf://alice/out", token=alice)
    asked = "^/(api/(?!resolve-cache)|alice/out.git/)"  # what it resolves has limits of its own
    seen = sum(len(hub.log.find(method, asked)) for method in ("GET", "POST", "PUT", "DELETE", "HEAD"))
    assert seen <= requests(plan) <= 2 * seen
    more = replace(plan, shards=plan.shards * 100)
    assert requests(more) - requests(plan) == 4 * 99 * len(plan.shards)

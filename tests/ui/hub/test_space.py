"""Which commit of the Space runs."""

from __future__ import annotations

import pytest

from tests.hub import Hub
from ui.hub.space import running_commit

HEAD, RUNNING = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("commits", "found"),
    [((HEAD, RUNNING), RUNNING), ((HEAD, None), HEAD), (("$(touch x)", None), ""), (None, "")],
)
def test_the_commit_that_runs(hub: Hub, commits: tuple[str, str | None] | None, found: str) -> None:
    if commits:
        hub.spaces["alice/alloy"] = commits

    assert running_commit("alice/alloy") == found


def test_a_hub_that_fails(hub: Hub) -> None:
    hub.fault("GET", "^/api/spaces/", status=500, times=None)

    assert running_commit("alice/alloy") == ""

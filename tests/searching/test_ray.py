"""The same with Ray: two nodes on this machine, one of which is killed. `make nightly` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints.ray_cluster import RayCluster
from searching import SearchProgress, plan_search, read_space, run_search
from tests.merging.engine.test_ray import Nodes, nodes
from tests.searching.test_elsewhere import figures
from tests.searching.test_search_of_models import GIVEN, space

__all__ = ["nodes"]

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_search_with_a_node_killed(
    nodes: Nodes,
    family: Path,
    tmp_path: Path,
) -> None:
    text = space(family, "nsga2", trials=6)
    plan = plan_search(read_space(text), texts=GIVEN, on=RayCluster())
    assert plan.ok and plan.workers == 2

    def kill(progress: SearchProgress) -> None:
        if progress.scored.who == "trial 2":
            nodes.kill(0)

    run_search(plan, tmp_path / "cluster", on_trial=kill)
    run_search(plan_search(read_space(text), texts=GIVEN), tmp_path / "here")

    assert figures(tmp_path / "cluster") == figures(tmp_path / "here")

"""How often a search says "better" where nothing is, and where something is."""

from __future__ import annotations

from pathlib import Path

import pytest

from searching import run_search
from tests.searching.synthetic import Score, documents, plan, space


def endings(folder: Path, searches: int, score: type[Score], gain: float) -> list[str]:
    """How searches of 12 trials end that differ in their noise alone."""
    found = []
    for seed in range(searches):
        made = plan(score(gain=gain, noise=0.3, seed=seed), space("random", 12, seed), documents(10, 6, 16))
        found.append(run_search(made, folder / str(seed)).report.ending)
    return found


@pytest.mark.parametrize("searches", [40, pytest.param(200, marks=pytest.mark.nightly)])
def test_nothing_is_rarely_found_where_nothing_is(tmp_path: Path, searches: int) -> None:
    """All recipes are alike but for noise."""
    found = endings(tmp_path, searches, Score, gain=0.0)

    assert found.count("better") <= 0.05 * searches


@pytest.mark.parametrize("searches", [20, pytest.param(200, marks=pytest.mark.nightly)])
def test_an_optimum_is_mostly_found(tmp_path: Path, searches: int) -> None:
    found = endings(tmp_path, searches, Score, gain=2.0)

    assert found.count("better") >= 0.95 * searches

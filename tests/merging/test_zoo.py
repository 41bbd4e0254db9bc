"""The zoo: any model that transformers builds merges exactly, or is refused in words."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from tests.merging.zoo import FAMILIES, OTHERS, outcomes

# How many families are tried in a run of all tests; `make nightly` tries all.
SAMPLE = 6


def sample() -> list[str]:
    """Other families each week, so that all get their turn."""
    week = datetime.now(UTC).strftime("%G-%V")
    return sorted(FAMILIES, key=lambda name: hashlib.sha256(f"{week} {name}".encode()).digest())[:SAMPLE]


@pytest.mark.parametrize("family", sample())
def test_a_family_of_this_week(family: str) -> None:
    for outcome in outcomes(family):
        assert outcome.verdict != "WRONG", outcome


@pytest.mark.nightly
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_a_family(family: str) -> None:
    for outcome in outcomes(family):
        assert outcome.verdict != "WRONG", outcome

"""Models that were meant by names that the Hub does not have."""

from __future__ import annotations

import pytest

from checkpoints.problems import Problem
from merging.planning.similar_names import find_similar, with_similar_names
from tests.hub import Hub


@pytest.fixture
def library(hub: Hub) -> Hub:
    """A Hub with some models."""
    hub.add_user("org")
    for name in ("SmolLM2-135M-Pirate", "SmolLM2-135M-Bard", "other"):
        hub.put(f"org/{name}", {"config.json": b"{}"})
    return hub


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("org/SmolLM2-135M-Pirat", "org/SmolLM2-135M-Pirate"),
        ("org/smollm2-135m-brad", "org/SmolLM2-135M-Bard"),
        ("orgs/SmolLM2-135M-Bard", "org/SmolLM2-135M-Bard"),
        ("org/nothing-like-it", ""),
        ("nobody/nothing", ""),
    ],
)
def test_the_nearest_name_is_found(library: Hub, typed: str, meant: str) -> None:
    assert find_similar(typed, False) == meant


def test_only_models_that_were_not_found_are_asked_for(library: Hub) -> None:
    lost = Problem("model-not-found", {"model": "org/SmolLM2-135M-Pirat", "host": "h"})
    other = Problem("gated", {"model": "org/SmolLM2-135M-Pirat", "page": "p"})

    found, kept = with_similar_names([lost, other], False)

    assert found.values["similar"] == "org/SmolLM2-135M-Pirate"
    assert kept == other

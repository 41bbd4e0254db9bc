"""Weights from one look at each parent, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from searching.starters import greedy_soup, lm_cocktail


def test_lm_cocktail_by_hand() -> None:
    # e^-1, e^-2, e^-2 without the common factor: 1, 1/e, 1/e.
    whole = 1 + 2 / math.e

    assert lm_cocktail([1.0, 2.0, 2.0]) == pytest.approx([1 / whole, 1 / math.e / whole, 1 / math.e / whole])


def test_a_high_temperature_makes_weights_alike() -> None:
    assert lm_cocktail([1.0, 3.0], temperature=1e6) == pytest.approx([0.5, 0.5], abs=1e-6)
    assert lm_cocktail([1.0, 3.0], temperature=1e-3) == pytest.approx([1.0, 0.0])


def test_large_losses_do_not_underflow() -> None:
    assert lm_cocktail([5000.0, 5001.0]) == pytest.approx([1 / (1 + 1 / math.e), 1 / (1 + math.e)])


def test_greedy_soup_by_hand() -> None:
    """The second (1.0) comes first; the third (2.0) with it scores 0.8 and stays; the first (3.0) makes it 0.9."""
    asked: list[tuple[float, ...]] = []
    scores = {(0.0, 0.5, 0.5): 0.8, (1 / 3, 1 / 3, 1 / 3): 0.9}

    def score(weights: Sequence[float]) -> float:
        asked.append(tuple(weights))
        return scores[tuple(weights)]

    soup = greedy_soup([3.0, 1.0, 2.0], score)

    assert soup == ((0.0, 0.5, 0.5), 0.8, 2)
    assert asked == list(scores)


def test_a_soup_may_be_one_model() -> None:
    assert greedy_soup([1.0, 2.0], lambda _: 1.5) == ((1.0, 0.0), 1.0, 1)

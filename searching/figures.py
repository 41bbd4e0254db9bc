"""Figures of a recipe, document by document, and what they say of two recipes.

All figures are made so that lower is better: those of goals where a higher score is better are negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.jackknife import Estimate, estimate_ratio
from searching.goals import Goal

# Pairs of a numerator and a denominator, one for each document: bits and bytes, or a score and 1.
Rows = tuple[tuple[float, float], ...]
Figures = Mapping[str, Rows]


def figure(rows: Sequence[tuple[float, float]]) -> float:
    """Sum of the numerators over the sum of the denominators; NaN for none."""
    below = math.fsum(row[1] for row in rows)
    return math.fsum(row[0] for row in rows) / below if below else math.nan


def score(figures: Figures, goals: Sequence[Goal]) -> float:
    """The weighted mean of the goals' figures, guards left out; NaN if one of them has none."""
    counted = [goal for goal in goals if not goal.is_guard]
    whole = sum(goal.weight for goal in counted)
    return sum(goal.weight * figure(figures.get(goal.name, ())) for goal in counted) / whole


def is_finite(figures: Figures) -> bool:
    return all(math.isfinite(number) for rows in figures.values() for row in rows for number in row)


def excess(figures: Figures, references: Figures, goals: Sequence[Goal]) -> dict[str, float]:
    """By how much each guard is broken, 0 where it is kept.

    Guards without documents, and those whose model has no figures, are left out.

    Args:
        figures: of the recipe to judge
        references: of the model that each guard is relative to, on the same documents
        goals: guards among them
    """
    found = {}
    for goal in goals:
        known = figures.get(goal.name)
        if goal.limit is None or not known or (goal.limit.of and not references.get(goal.name)):
            continue
        sign = -1 if goal.higher_is_better else 1
        limit = sign * goal.limit.above(sign * figure(references.get(goal.name, ())))
        found[goal.name] = max(figure(known) - limit, 0.0)
    return found


@dataclass(frozen=True)
class Compared:
    """How much better or worse a recipe scores than another, on the same documents.

    Args:
        difference: of the scores; below 0 the recipe is better
        interval: its 95 % interval; None with too few documents
        p: of the two-sided test that they are equal; None where there is no interval
        detectable: the least true difference that documents like these show with a probability of 80 %
        documents: how many
    """

    difference: float
    interval: tuple[float, float] | None
    p: float | None
    detectable: float | None
    documents: int


def compare(one: Figures, other: Figures, goals: Sequence[Goal], *, documents: int | None = None) -> Compared:
    """Compare two recipes by their score, document by document.

    The score is a weighted mean over texts. Its error is that of the deviations within each text, by the jackknife, see
    `evaluation.jackknife`.

    Args:
        one: figures of the recipe to judge
        other: figures of what it is compared with, of the same documents
        goals: that count; guards are left out
        documents: how many documents like these `detectable` is for; None for as many as there are
    """
    numerators, denominators = _pooled(one, other, [goal for goal in goals if not goal.is_guard])
    count = len(numerators)
    if not count:
        return Compared(math.nan, None, None, None, 0)
    found = estimate_ratio(numerators, denominators)
    detectable = found.detectable if documents is None else found.detectable_with(documents)
    return Compared(found.value, found.interval, _p(found, numerators, denominators), detectable, count)


def _pooled(
    one: Figures, other: Figures, goals: Sequence[Goal]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) numerators and denominators whose ratio of sums is the difference of the scores.

    They deviate from that ratio as the documents deviate within their own text.
    """
    whole = sum(goal.weight for goal in goals)
    sums, deviations, shares = 0.0, [], []
    total = sum(len(one.get(goal.name, ())) for goal in goals)
    for goal in goals:
        own, others = (np.array(figures.get(goal.name, ()), np.float64) for figures in (one, other))
        if not len(own):
            continue
        share = goal.weight / whole
        below = own[:, 1] / own[:, 1].sum()
        ratios = own[:, 0] / own[:, 1] - others[:, 0] / others[:, 1]
        mean = float(ratios @ below)
        count = len(own)
        # The jackknife below takes all texts as one sample; each is one of its own, with a mean of its own.
        wider = math.sqrt(count / (count - 1) * (total - 1) / total) if count > 1 else 1.0
        deviations.append(share * below * (ratios - mean) * wider)
        shares.append(share * below)
        sums += share * mean
    if not shares:
        return np.empty(0), np.empty(0)
    denominators = np.concatenate(shares)
    return np.concatenate(deviations) + sums * denominators, denominators


def _p(found: Estimate, numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> float | None:
    """One less the level of the widest interval without 0."""
    if found.interval is None:
        return None
    if not found.value:
        return 1.0
    low, high = 0.0, 1.0 - 1e-12
    for _ in range(40):
        level = (low + high) / 2
        interval = estimate_ratio(numerators, denominators, level=level).interval
        assert interval is not None
        holds = interval[0] <= 0 <= interval[1]
        low, high = (low, level) if holds else (level, high)
    return 1.0 - low


def holm(ps: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's correction: the p of each comparison, adjusted for all of them; None where there is none.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    ordered = sorted((p, name) for name, p in ps.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(ps)
    largest = 0.0
    for rank, (p, name) in enumerate(ordered):
        largest = max(largest, min(p * (len(ordered) - rank), 1.0))
        adjusted[name] = largest
    return adjusted

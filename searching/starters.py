"""Weights that a look at each parent gives: results of their own, and good points for a search to start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


def lm_cocktail(losses: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Weights by how well each model predicts a few examples (LM-Cocktail, https://arxiv.org/abs/2311.13534): the
    softmax of minus the losses.

    Args:
        losses: K, the nats per token of each model
        temperature: the higher, the more alike the weights

    Returns:
        K weights whose sum is 1.
    """
    best = min(losses)
    shares = [math.exp((best - loss) / temperature) for loss in losses]
    return [share / sum(shares) for share in shares]


class Soup(NamedTuple):
    """An average of some of the models.

    Args:
        weights: K, equal for those that take part and 0 for all others
        score: of the average
        tried: averages that were scored
    """

    weights: tuple[float, ...]
    score: float
    tried: int


def greedy_soup(alone: Sequence[float], score: Callable[[Sequence[float]], float]) -> Soup:
    """Take the best model, then each other from the best to the worst, and keep it where the average does not get worse
    (model soups, https://arxiv.org/abs/2203.05482).

    Args:
        alone: K scores of the models by themselves; lower is better
        score: of the average with K weights, on texts that will not report the result
    """
    order = sorted(range(len(alone)), key=lambda index: alone[index])
    chosen, best = [order[0]], alone[order[0]]
    for index in order[1:]:
        found = score(_equal([*chosen, index], len(alone)))
        if found <= best:
            chosen, best = [*chosen, index], found
    return Soup(_equal(chosen, len(alone)), best, len(alone) - 1)


def _equal(chosen: Sequence[int], count: int) -> tuple[float, ...]:
    return tuple(1 / len(chosen) if index in chosen else 0.0 for index in range(count))

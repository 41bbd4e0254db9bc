"""Paired bootstrap: the interval of a metric's difference, for metrics that are no means over questions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from evaluation.jackknife import LEVEL

_DRAWS = 1000

Metric = Callable[[list[Any]], float]


def paired_bootstrap(
    metric: Metric, model: Sequence[Any], other: Sequence[Any]
) -> tuple[float, float] | None:
    """The 95 % interval of the difference of a metric, by drawing questions with replacement.

    The same questions are drawn for both models, 1000 times. The interval is the percentiles', widened for few
    questions as by Hesterberg (arXiv 1411.5279, "expanded percentile").

    Args:
        metric: makes one number of what is known of all questions.
        model: what is known of each question for the model to judge.
        other: the same for the model it is compared with.

    Returns:
        None where the metric cannot be computed on some draws.
    """
    count = len(model)
    random = np.random.default_rng(0)
    drawn = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # draws that lack a class
        for _ in range(_DRAWS):
            chosen = random.integers(count, size=count).tolist()
            drawn.append(
                float(metric([model[i] for i in chosen])) - float(metric([other[i] for i in chosen]))
            )
    if not np.isfinite(drawn).all():
        return None
    quantile = math.sqrt(count / (count - 1)) * float(stdtrit(count - 1, (1 + LEVEL) / 2))
    low, high = np.quantile(drawn, [float(ndtr(-quantile)), float(ndtr(quantile))])
    return float(low), float(high)

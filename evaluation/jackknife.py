"""Intervals for ratios of sums over independent units, such as nats over bytes of documents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
# Chance of seeing a difference that is as large as `Estimate.detectable`.
POWER = 0.8
# With fewer units, how far they spread is unknown.
FEWEST_UNITS = 5
# Among fewer units than this, an outlier at this level decides the result by itself, and how rare its like are is
# unknown.
ENOUGH_UNITS = 20
_OUTLIER_LEVEL = 0.001
# The skewness of a small sample is smaller than that of what it was drawn from; `bench.coverage` shows by how much.
_SKEWNESS_OF_SAMPLES = 1.3


@dataclass(frozen=True)
class Estimate:
    """A ratio of sums with its interval.

    Attributes:
        value: sum of the numerators over sum of the denominators.
        error: its standard error, by the jackknife; None for fewer than five units.
        freedom: degrees of freedom of Student's t; the number of units less one if all denominators are equal.
        units: how many there are.
        interval: None for fewer than five units, or where one of a few decides the result (`has_outlier`).
        has_outlier: whether there are fewer than 20 units and one of them is far from all others.
        level: of the interval.
    """

    value: float
    error: float | None
    freedom: float
    units: int
    interval: tuple[float, float] | None
    has_outlier: bool = False
    level: float = LEVEL

    @property
    def detectable(self) -> float | None:
        """The smallest true difference from 0 whose interval excludes 0 in four of five samples like this one."""
        return self.detectable_with(self.units)

    def units_to_detect(self, difference: float) -> int | None:
        """How many units like these make a difference detectable; None without an interval."""
        found = self.detectable
        if found is None:
            return None
        wanted = float(self.units)
        for _ in range(20):  # the quantiles depend on the number, and settle within a few rounds
            wanted = max(wanted * (found / difference) ** 2, FEWEST_UNITS)
            found = self.detectable_with(wanted)
            assert found is not None
        return math.ceil(wanted)

    def detectable_with(self, units: float) -> float | None:
        """The same with another number of units like these."""
        if self.interval is None or self.error is None:
            return None
        more = units / self.units
        freedom = self.freedom * (units - 1) / (self.units - 1)
        error = self.error / math.sqrt(more)
        # What the interval is wider than Student's for its skewness shrinks faster than the error.
        reach = max(self.interval[1] - self.value, self.value - self.interval[0])
        skewed = (reach - _student((1 + self.level) / 2, self.freedom) * self.error) / more
        return (_student((1 + self.level) / 2, freedom) + _student(POWER, freedom)) * error + skewed


def estimate_ratio(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], *, level: float = LEVEL
) -> Estimate:
    """Estimate a ratio of sums from independent units.

        estimate_ratio(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5)).interval  # (1.04, 4.96), as a t-test's

    The standard error is the delete-one jackknife's. Student's t has Satterthwaite's degrees of freedom for variances
    in proportion to the denominators (Bell and McCaffrey 2002), so one unit that outweighs all others counts as few.
    Where the units are skewed, the interval also covers Hall's transformation (1992) of the same statistic.

    Args:
        numerators: (n,) float64.
        denominators: (n,) float64, above 0.
        level: of the interval.
    """
    total, units = float(denominators.sum()), len(denominators)
    value = float(numerators.sum()) / total
    if units < FEWEST_UNITS:
        return Estimate(value, None, units - 1.0, units, None, level=level)
    residuals = numerators - value * denominators
    influences = residuals / (total - denominators)  # by how much the ratio changes without each unit
    error = math.sqrt((units - 1) / units * float(influences @ influences))
    freedom = _freedom(denominators / total)
    if _has_outlier(residuals / np.sqrt(denominators)):
        return Estimate(value, error, freedom, units, None, has_outlier=True, level=level)
    quantile = _student((1 + level) / 2, freedom)
    skewness = _skewness(influences)
    low = value - error * max(quantile, _hall(quantile, skewness))
    high = value - error * min(-quantile, _hall(-quantile, skewness))
    return Estimate(value, error, freedom, units, (low, high), level=level)


def _student(share: float, freedom: float) -> float:
    """The quantile of Student's t."""
    return float(stdtrit(freedom, share))


def _freedom(shares: NDArray[np.float64]) -> float:
    """Satterthwaite's degrees of freedom of the jackknife's variance, from each unit's (n,) share of the whole."""
    scaled = shares / (1 - shares)
    squares = scaled**2
    return float(scaled.sum() ** 2 / (squares.sum() + squares.sum() ** 2 - (squares**2).sum()))


def _skewness(influences: NDArray[np.float64]) -> float:
    """Skewness of the estimate, which for equal units is theirs divided by the root of their number."""
    units, squares = len(influences), float(influences @ influences)
    if not squares:
        return 0.0
    unbiased = math.sqrt(units * (units - 1)) / (units - 2)
    return _SKEWNESS_OF_SAMPLES * unbiased * float((influences**3).sum()) / math.sqrt(squares**3)


def _hall(quantile: float, skewness: float) -> float:
    """What Hall's cubic transformation takes to this quantile."""
    if abs(skewness) < 1e-9:
        return quantile
    return 3 / skewness * (math.cbrt(1 + skewness * (quantile - skewness / 6)) - 1)


def _has_outlier(residuals: NDArray[np.float64]) -> bool:
    """Grubbs' test, for few units."""
    units = len(residuals)
    if units >= ENOUGH_UNITS:
        return False
    centred = residuals - residuals.mean()
    deviation = math.sqrt(float(centred @ centred) / (units - 1))
    quantile = _student(1 - _OUTLIER_LEVEL / (2 * units), units - 2)
    most = (units - 1) / math.sqrt(units) * math.sqrt(quantile**2 / (units - 2 + quantile**2))
    return bool(np.abs(centred).max() > most * deviation)

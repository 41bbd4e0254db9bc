"""Intervals of ratios: against scipy, by hand, and as often right as they claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.coverage import over_blocks, over_documents, power
from evaluation.jackknife import _freedom, estimate_ratio

SYMMETRIC = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 4.0, -4.0]) + 0.5


def test_equal_units_have_the_interval_of_a_t_test() -> None:
    found = estimate_ratio(SYMMETRIC, np.ones(7))

    expected = stats.ttest_1samp(SYMMETRIC, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(0.5)
    assert found.error == pytest.approx(stats.sem(SYMMETRIC))
    assert found.freedom == pytest.approx(6)
    assert found.interval == pytest.approx(tuple(expected))


def test_the_error_is_that_of_leaving_one_unit_out() -> None:
    random = np.random.default_rng(0)
    numerators, denominators = random.normal(size=9), random.lognormal(size=9)

    found = estimate_ratio(numerators, denominators)

    without = np.array([np.delete(numerators, i).sum() / np.delete(denominators, i).sum() for i in range(9)])
    assert found.error == pytest.approx(np.sqrt(8 / 9 * np.sum((without - found.value) ** 2)))


def test_freedom_is_satterthwaites() -> None:
    """The moments of the quadratic form by matrices: residuals of a line through 0, variances as the denominators."""
    sizes = np.array([1.0, 1.0, 2.0, 4.0, 8.0])
    shares = sizes / sizes.sum()
    residual = np.eye(5) - np.outer(shares, np.ones(5))
    form = np.diag(1 / (1 - shares)) @ residual @ np.diag(np.sqrt(sizes))
    gram = form @ form.T

    assert _freedom(shares) == pytest.approx(np.trace(gram) ** 2 / np.trace(gram @ gram))
    assert _freedom(np.full(12, 1 / 12)) == pytest.approx(11)
    assert _freedom(np.array([0.96, 0.01, 0.01, 0.01, 0.01])) < 1.2


def test_a_long_tail_widens_the_interval_on_its_side() -> None:
    skewed = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 1.6, 3.0])

    found = estimate_ratio(skewed, np.ones(8))
    mirrored = estimate_ratio(-skewed, np.ones(8))

    assert found.interval and mirrored.interval
    low, high = stats.ttest_1samp(skewed, 0).confidence_interval(0.95)
    assert found.interval[0] == pytest.approx(low)
    assert found.interval[1] > high + 0.1
    assert mirrored.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_an_outlier_among_few_units_is_no_interval() -> None:
    alike = np.array([0.010, 0.012, 0.008, 0.011, 0.009, 0.010, 0.013])

    refused = estimate_ratio(np.append(alike, 1.0), np.ones(8))
    among_many = estimate_ratio(np.append(np.tile(alike, 3), 1.0), np.ones(22))

    assert refused.has_outlier and refused.interval is None and refused.detectable is None
    assert refused.units_to_detect(0.01) is None
    assert not among_many.has_outlier and among_many.interval


def test_four_units_have_no_interval() -> None:
    found = estimate_ratio(np.arange(4.0), np.ones(4))

    assert (found.value, found.error, found.interval, found.detectable) == (1.5, None, None, None)


def test_what_is_detectable_by_hand() -> None:
    """Seven units of mean 0.5 and standard error 1.122: t(0.975, 6) = 2.447 and t(0.8, 6) = 0.906."""
    found = estimate_ratio(SYMMETRIC, np.ones(7))

    assert found.error and found.detectable
    assert found.detectable == pytest.approx((2.4469 + 0.9057) * found.error, rel=1e-3)
    assert found.units_to_detect(found.detectable) == 7
    # Half as large needs a little less than four times as many: the quantiles shrink too.
    assert 20 <= (found.units_to_detect(found.detectable / 2) or 0) <= 28
    assert found.units_to_detect(1e9) == 5


@pytest.mark.parametrize("correlation", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("lengths", ["even", "uneven"])
@pytest.mark.parametrize("documents", [5, 11, 22])
def test_intervals_over_documents_hold_the_truth_at_all_correlations(
    documents: int, lengths: str, correlation: float
) -> None:
    """The short form of `bench.coverage`; 1,000 trials of 95 % vary by 0.7 %."""
    found = over_documents(np.random.default_rng(0), 1000, documents, lengths, "normal", correlation)

    assert 0.93 <= found.covered <= 0.99
    assert found.answered > 0.97
    assert found.false <= 0.07


@pytest.mark.parametrize("documents", [5, 8, 22])
@pytest.mark.parametrize(
    ("tails", "most"), [("Student's t, 3", 0.05), ("exponential", 0.09), ("lognormal", 0.12)]
)
def test_false_verdicts_on_long_tails_are_rare(documents: int, tails: str, most: float) -> None:
    found = over_documents(np.random.default_rng(0), 1000, documents, "even", tails, 1.0)

    assert found.false <= most
    assert found.covered >= 1 - most


def test_intervals_over_blocks_hold_the_truth() -> None:
    found = over_blocks(np.random.default_rng(0), 100, 1, 8192, 0.9)

    assert found.answered == 1
    assert found.covered >= 0.9


def test_what_is_called_detectable_is_seen_in_four_of_five_samples() -> None:
    seen, _ = power(np.random.default_rng(0), 1000, 11, 0.2)

    assert 0.75 <= seen <= 0.86

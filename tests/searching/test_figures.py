"""Scores and their differences, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.jackknife import estimate_ratio
from searching.figures import compare, excess, figure, holm, score
from searching.goals import Goal, Limit

TEXT = Goal("text", "text", "text")
OTHER = Goal("other", "text", "other", weight=3.0)
TASK = Goal("task", "task", "task")


def rows(*numbers: float) -> tuple[tuple[float, float], ...]:
    return tuple((number, 1.0) for number in numbers)


def test_a_score_is_the_weighted_mean_of_ratios_of_sums() -> None:
    figures = {"text": ((8.0, 4.0), (4.0, 2.0)), "other": rows(1.0, 2.0)}

    assert figure(figures["text"]) == 2.0
    assert score(figures, [TEXT, OTHER]) == (1 * 2.0 + 3 * 1.5) / 4
    assert math.isnan(score({}, [TEXT]))


def test_guards_count_for_nothing_in_the_score() -> None:
    guard = Goal("guard", "text", "guard", weight=0.0, limit=Limit(0.01, of="base"))
    figures = {"text": rows(1.0), "guard": rows(2.05)}

    assert score(figures, [TEXT, guard]) == 1.0
    assert excess(figures, {"guard": rows(2.0)}, [TEXT, guard]) == {"guard": pytest.approx(0.04)}
    assert excess({"guard": rows(2.01)}, {"guard": rows(2.0)}, [guard]) == {"guard": pytest.approx(0.0)}


def test_the_limit_of_a_score_is_the_least() -> None:
    guard = Goal("guard", "task", "guard", weight=0.0, limit=Limit(-0.1, of="base"))

    # Scores are negative figures: 0.5 of the base may become 0.4, and became 0.3.
    assert excess({"guard": rows(-0.3)}, {"guard": rows(-0.5)}, [guard]) == {"guard": pytest.approx(0.1)}


def test_guards_without_a_figure_to_compare_with_break_nothing() -> None:
    relative = Goal("guard", "text", "guard", weight=0.0, limit=Limit(0.0, of="org/math"))
    fixed = Goal("guard", "text", "guard", weight=0.0, limit=Limit(1.0))

    assert excess({"guard": rows(2.0)}, {}, [relative]) == {}
    assert excess({"guard": ()}, {"guard": rows(1.0)}, [relative]) == {}
    assert excess({"guard": rows(2.0)}, {}, [fixed]) == {"guard": 1.0}


def test_one_text_is_compared_as_by_the_jackknife() -> None:
    random = np.random.default_rng(0)
    sizes = random.uniform(100, 400, 30)
    own, other = random.normal(1, 0.2, (2, 30))
    figures = [{"text": tuple(zip(values * sizes, sizes, strict=True))} for values in (own, other)]

    found = compare(*figures, [TEXT])

    expected = estimate_ratio((own - other) * sizes, sizes)
    assert found.difference == pytest.approx(expected.value)
    assert found.interval == pytest.approx(expected.interval)
    assert found.detectable == pytest.approx(expected.detectable)


def test_texts_of_different_differences_are_not_noise() -> None:
    """Two texts whose documents all differ by the same within each: the mean of both is known almost exactly."""
    random = np.random.default_rng(1)
    noise = random.normal(0, 0.001, 20)
    one = {"text": rows(*(1 + noise[:10])), "other": rows(*(0 + noise[10:]))}
    two = {"text": rows(*[0.0] * 10), "other": rows(*[1.0] * 10)}

    found = compare(one, two, [TEXT, OTHER])

    assert found.difference == pytest.approx((1 - 3) / 4, abs=0.002)
    assert found.interval and found.interval[1] - found.interval[0] < 0.01


def test_intervals_of_two_texts_hold_what_they_should() -> None:
    random = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        one = {"text": rows(*random.normal(0, 1, 12)), "other": rows(*random.normal(2, 0.3, 20))}
        found = compare(one, {"text": rows(*[0.0] * 12), "other": rows(*[0.0] * 20)}, [TEXT, OTHER])
        assert found.interval
        held += found.interval[0] <= 6 / 4 <= found.interval[1]

    assert 0.92 <= held / 300 <= 0.985


def test_p_belongs_to_the_interval() -> None:
    values = np.random.default_rng(3).normal(0.5, 1, 40)
    found = compare({"text": rows(*values)}, {"text": rows(*[0.0] * 40)}, [TEXT])
    assert found.p
    at = estimate_ratio(values, np.ones(40), level=1 - found.p)

    assert at.interval and min(map(abs, at.interval)) < 1e-6
    assert (found.p < 0.05) == (found.interval[0] > 0 or found.interval[1] < 0)  # type: ignore[index]


def test_equal_recipes_do_not_differ() -> None:
    same = {"text": rows(*range(10))}

    found = compare(same, same, [TEXT])

    assert (found.difference, found.p) == (0.0, 1.0)


def test_few_documents_have_no_interval() -> None:
    found = compare({"text": rows(1, 2, 3)}, {"text": rows(2, 3, 4)}, [TEXT])

    assert (found.difference, found.interval, found.p, found.documents) == (-1, None, None, 3)


def test_holm_by_hand() -> None:
    # 0.01 x 3; 0.02 x 2; 0.03 x 1, but no less than the one before.
    found = holm({"a": 0.03, "b": 0.01, "c": 0.02, "none": None})

    assert found == {
        "a": pytest.approx(0.04),
        "b": pytest.approx(0.03),
        "c": pytest.approx(0.04),
        "none": None,
    }
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}

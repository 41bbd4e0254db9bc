"""What a card's `model-index` says, and what it cannot be made to say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ui.gallery.figures import Figure, Gain, figures_of, over_best_parent


def entry(*metrics: dict[str, Any], data: object = "Stories") -> list[dict[str, Any]]:
    return [{"name": "m", "results": [{"dataset": {"name": data}, "metrics": list(metrics)}]}]


def saved(other: str, value: float, interval: list[float] | None) -> dict[str, Any]:
    args = {"other": other, "interval_95": interval}
    return {"type": "bits_per_byte_difference", "name": "x", "value": value, "args": args}


def test_fewer_bits_are_a_gain_and_the_interval_turns_with_it() -> None:
    figures, gains = figures_of(entry(saved("a/one", -0.02, [-0.03, -0.01])))

    assert figures == ()
    assert gains == (Gain("a/one", "bits_per_byte", "Stories", 0.02, (0.01, 0.03)),)
    assert gains[0].verdict == "better"


def test_the_best_parent_is_the_one_that_it_gains_least_over() -> None:
    _, gains = figures_of(
        entry(
            saved("a/one", -0.02, None),
            saved("a/two@0123", 0.01, [0.005, 0.015]),
            saved("b/no-parent", 0.5, None),
        )
    )

    best = over_best_parent(gains, ["a/one", "a/two"])

    assert best is not None and best.other == "a/two@0123"
    assert (best.value, best.verdict) == (-0.01, "worse")
    assert over_best_parent(gains, ["c/other"]) is None


def test_a_score_is_better_when_it_is_higher() -> None:
    args = {"other": "a/one", "interval_95": [-0.01, 0.05]}
    _, [gain] = figures_of(entry({"type": "score_difference", "value": 0.02, "args": args}))

    assert (gain.kind, gain.value, gain.verdict) == ("score", 0.02, "open")


def test_a_score_has_its_data_and_its_interval() -> None:
    metric = {"type": "acc", "name": "Accuracy", "value": 0.5, "args": {"interval_95": [0.4, 0.6]}}

    assert figures_of(entry(metric))[0] == (Figure("acc", "Accuracy", "Stories", 0.5, (0.4, 0.6)),)


@pytest.mark.parametrize(
    "index",
    [
        None, "text", 7, {}, [None, 1, "x"], [{"results": 3}], [{"results": [{"metrics": {"a": 1}}]}],
        entry({"type": ["list"], "value": 0.5, "name": {"a": 1}}, data=["x"]),
        entry({"type": "acc", "value": "0.5"}), entry({"type": "acc", "value": True}),
        entry({"type": "acc", "value": math.nan}), entry({"type": "acc", "value": 10**400}),
        entry(saved("", -1.0, None)), entry({"type": "score_difference", "value": 1, "args": [1]}),
    ],
)  # fmt: skip
def test_odd_forms_say_nothing_and_break_nothing(index: object) -> None:
    figures, gains = figures_of(index)

    assert gains == ()
    assert all(math.isfinite(figure.value) for figure in figures)


@pytest.mark.parametrize(
    "interval", [[1], [2, 1], ["a", "b"], {"low": 1}, [math.inf, 1], [-math.inf, math.inf]]
)
def test_an_interval_that_is_none_is_left_out(interval: Any) -> None:
    _, [gain] = figures_of(entry(saved("a/one", -0.02, interval)))

    assert gain.interval is None and gain.verdict == "open"


def test_what_is_kept_is_bounded() -> None:
    many = [{"type": "acc", "name": f"{n} " + "x" * 500, "value": 0.5} for n in range(1000)]

    figures, _ = figures_of(entry(*many, data="y" * 500))

    assert len(figures) == 12
    assert all(len(figure.name) <= 80 and len(figure.data) <= 80 for figure in figures)

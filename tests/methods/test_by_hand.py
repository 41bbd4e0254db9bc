"""One example for every method, worked out by hand; laws alone cannot tell TIES from its opposite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from merging.methods import METHODS
from merging.methods.slerp import slerp
from tests.methods.whole import merge_by_engine

BASE = [1.0, 1.0, 1.0, 1.0]
# What each fine-tune changed: +4 +2 -1 0 and -1 +4 +2 0.
FIRST = [5.0, 3.0, 0.0, 1.0]
SECOND = [0.0, 5.0, 3.0, 1.0]

EXAMPLES: dict[str, tuple[list[list[float]], dict[str, Any], list[float]]] = {
    # (3 * first + 1 * second) / 4
    "linear": ([FIRST, SECOND], {"weight": [3.0, 1.0], "normalize": True}, [3.75, 3.5, 0.75, 1.0]),
    # A right angle, half way: both times sin(45°).
    "slerp": (
        [[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]],
        {"t": 0.5},
        [2 * math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0],
    ),
    # 1 + 0.5 * (1 * change of the first - 2 * change of the second)
    "task_arithmetic": (
        [BASE, FIRST, SECOND],
        {"weight": [1.0, -2.0], "normalize": False, "lambda_": 0.5},
        [4.0, -2.0, -1.5, 1.0],
    ),
    # Half of each change stays: +4 +2 0 0 and 0 +4 +2 0. All signs are plus; each entry is the mean of those
    # that are not zero: 4, (2 + 4) / 2, 2, and nothing.
    "ties": (
        [BASE, FIRST, SECOND],
        {"weight": [1.0, 1.0], "normalize": True, "lambda_": 1.0, "density": [0.5, 0.5], "rescale": False},
        [5.0, 4.0, 3.0, 1.0],
    ),
    "passthrough": ([FIRST], {"scale": [-0.5]}, [-2.5, -1.5, 0.0, -0.5]),
}


def test_every_method_has_its_example() -> None:
    assert EXAMPLES.keys() == METHODS.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_by_hand(name: str) -> None:
    tensors, arguments, expected = EXAMPLES[name]

    merged = merge_by_engine(METHODS[name], [torch.tensor(t) for t in tensors], arguments)

    torch.testing.assert_close(merged, torch.tensor(expected))


def test_ties_elects_the_sign_with_more_mass() -> None:
    arguments = {
        "weight": [1.0, 1.0],
        "normalize": True,
        "lambda_": 1.0,
        "density": [1.0, 1.0],
        "rescale": False,
    }

    merged = merge_by_engine(METHODS["ties"], [torch.tensor(t) for t in (BASE, FIRST, SECOND)], arguments)

    # +4 against -1: plus wins, and -1 drops out; +2 +4: their mean; -1 against +2: plus.
    torch.testing.assert_close(merged, torch.tensor([5.0, 4.0, 3.0, 1.0]))


def test_ties_keeps_the_first_of_equal_magnitudes() -> None:
    base, model = torch.zeros(6), torch.tensor([1.0, -2.0, 1.0, -1.0, 1.0, 0.0])
    arguments = {"weight": [1.0], "normalize": True, "lambda_": 1.0, "density": [0.5], "rescale": False}

    merged = merge_by_engine(METHODS["ties"], [base, model], arguments)

    assert merged.tolist() == [1.0, -2.0, 1.0, 0.0, 0.0, 0.0]


def test_ties_rescaled_keeps_the_sum_of_magnitudes() -> None:
    base, model = torch.zeros(4), torch.tensor([6.0, -2.0, 1.0, -1.0])
    arguments = {"weight": [1.0], "normalize": True, "lambda_": 1.0, "density": [0.5], "rescale": True}

    merged = merge_by_engine(METHODS["ties"], [base, model], arguments)

    torch.testing.assert_close(merged, torch.tensor([7.5, -2.5, 0.0, 0.0]))


def test_slerp_of_nearly_parallel_models_is_a_straight_line() -> None:
    products = np.array([[1.0, 0.9999], [0.9999, 1.0]])

    assert slerp(products, t=0.25) == [0.75, 0.25]


def test_slerp_with_a_model_of_zeros_is_a_straight_line() -> None:
    assert slerp(np.array([[0.0, 0.0], [0.0, 9.0]]), t=0.25) == [0.75, 0.25]

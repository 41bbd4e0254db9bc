"""The picture of a method: points worked out by hand, and every method of the registry."""

from __future__ import annotations

import math

import pytest

from merging import METHODS
from tests.ui.test_cards import shown
from ui.methods.plane import BASE, SCENES, picture, swept, taking_part
from ui.methods.tab import _fields, _spots, _values, about_card, catalogue, drawing

EVEN = {("weight", name): 1.0 for name in "ABC"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_shown(name: str) -> None:
    method = METHODS[name]
    found = picture(method, "disagree", {})

    svg = shown(f"{drawing(found)}{about_card(method)}")

    assert {"svg", "circle"} <= set(svg.names)
    assert len(found.models) == len(taking_part(method)) + (method.base == "subtracted")
    assert len(found.path) == (25 if swept(method) else 0)
    assert method.title in shown(catalogue()).text


def test_an_average_lies_in_the_middle() -> None:
    found = picture(METHODS["linear"], "agree", EVEN)

    [(x, y)] = found.results
    points = SCENES["agree"][1:]
    assert (x, y) == pytest.approx((sum(p[0] for p in points) / 3, sum(p[1] for p in points) / 3), abs=1e-4)
    # Of weight 0, A does not count.
    assert found.path[0] == pytest.approx([(points[1][i] + points[2][i]) / 2 for i in (0, 1)], abs=1e-4)


def test_slerp_walks_along_the_arc() -> None:
    found = picture(METHODS["slerp"], "turned", {("t", ""): 0.5})

    assert (found.path[0], found.path[-1]) == (SCENES["turned"][1], SCENES["turned"][2])
    assert all(math.hypot(x, y) == pytest.approx(1.3, abs=1e-3) for x, y in found.path)
    assert found.results == (pytest.approx((1.3 / math.sqrt(2),) * 2, abs=1e-4),)


def test_task_vectors_add_to_the_base() -> None:
    found = picture(METHODS["task_arithmetic"], "disagree", EVEN)

    base, *others = SCENES["disagree"]
    wanted = [base[i] + sum(point[i] - base[i] for point in others) for i in (0, 1)]
    assert found.results == (pytest.approx(wanted, abs=1e-4),)
    assert BASE in found.models


def test_random_methods_show_several_draws() -> None:
    draws = picture(METHODS["dare_linear"], "disagree", {("density", name): 0.5 for name in "ABC"}).results

    assert len(draws) > 3


@pytest.mark.parametrize("name", METHODS)
def test_fields_stand_for_parameters_and_back(name: str) -> None:
    method = METHODS[name]

    updates = _fields(method)

    values = _values(method, [update.get("value") for update in updates])
    assert {(p.name, owner) for spots in _spots(method) for p, owner in spots} == values.keys()
    assert sum(update["visible"] for update in updates) == len(values)

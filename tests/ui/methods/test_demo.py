"""The 2-D demo of a method: points worked out by hand, and every method of the registry."""

from __future__ import annotations

import math

import gradio as gr
import pytest

from merging import METHODS
from tests.ui.test_cards import shown
from ui.methods.about import about_card, catalogue
from ui.methods.demo import BASE, SCENES, demo, models_of, swept
from ui.methods.drawing import drawing
from ui.methods.fields import DemoFields

EVEN = {("weight", name): 1.0 for name in "ABC"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_shown(name: str) -> None:
    method = METHODS[name]
    found = demo(method, "disagree", {})

    svg = shown(f"{drawing(found)}{about_card(method)}")

    assert {"svg", "circle"} <= set(svg.names)
    assert len(found.models) == len(models_of(method)) + (method.base == "subtracted")
    assert len(found.path) == (25 if swept(method) else 0)
    assert method.title in shown(catalogue()).text


def test_an_average_lies_in_the_middle() -> None:
    found = demo(METHODS["linear"], "agree", EVEN)

    [(x, y)] = found.results
    points = SCENES["agree"][1:]
    assert (x, y) == pytest.approx((sum(p[0] for p in points) / 3, sum(p[1] for p in points) / 3), abs=1e-4)
    # Of weight 0, A does not count.
    assert found.path[0] == pytest.approx([(points[1][i] + points[2][i]) / 2 for i in (0, 1)], abs=1e-4)


def test_slerp_walks_along_the_arc() -> None:
    found = demo(METHODS["slerp"], "turned", {("t", ""): 0.5})

    assert (found.path[0], found.path[-1]) == (SCENES["turned"][1], SCENES["turned"][2])
    assert all(math.hypot(x, y) == pytest.approx(1.3, abs=1e-3) for x, y in found.path)
    assert found.results == (pytest.approx((1.3 / math.sqrt(2),) * 2, abs=1e-4),)


def test_task_vectors_add_to_the_base() -> None:
    found = demo(METHODS["task_arithmetic"], "disagree", EVEN)

    base, *others = SCENES["disagree"]
    wanted = [base[i] + sum(point[i] - base[i] for point in others) for i in (0, 1)]
    assert found.results == (pytest.approx(wanted, abs=1e-4),)
    assert BASE in found.models


def test_random_methods_show_several_draws() -> None:
    draws = demo(METHODS["dare_linear"], "disagree", {("density", name): 0.5 for name in "ABC"}).results

    assert len(draws) > 3


@pytest.mark.parametrize("name", METHODS)
def test_fields_set_parameters(name: str) -> None:
    method = METHODS[name]
    with gr.Blocks():
        fields = DemoFields()

    updates = fields.show(method)

    values = fields.values(method, {field: update.get("value") for field, update in updates.items()})
    assert {(p.name, model) for p, model in fields.parameters(method).values()} == values.keys()
    assert sum(update["visible"] for update in updates.values()) == len(values)

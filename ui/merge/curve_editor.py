"""A drawing of values by layer whose points can be moved; what is drawn is written into the recipe."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from markupsafe import Markup

from ui.languages.translate import t
from ui.merge.curve_script import MOVE_CURVES
from ui.recipe.drawn_curves import ATTENTION, LINES, MLP, DrawnCurve, Points, drawn_curves, with_line
from ui.widgets.events import detail
from ui.widgets.html import html, quiet, tag

# The drawing, in its own units.
WIDE, TALL = 360, 168
LEFT, TOP, RIGHT, BOTTOM = 34, 16, 346, 138


def curve_editor() -> gr.HTML:
    """The component, made inside the page's Blocks; its `release` event says what was moved, see `with_move`."""
    return gr.HTML(js_on_load=MOVE_CURVES, elem_classes="alloy-curves")


def with_move(recipe: str, moved: gr.EventData) -> str | None:
    """The recipe after a line was moved; None if the browser named none of its lines."""
    return with_line(recipe, str(detail(moved, "curve")), str(detail(moved, "line")), detail(moved, "points"))


def curves_picture(recipe: str) -> Markup:
    """The drawings of a recipe, of which one is shown at a time; empty if it has none."""
    curves = drawn_curves(recipe)
    if not curves:
        return Markup("")
    return tag.details(
        tag.summary(t("curve.heading")),
        quiet(t("curve.about")),
        _choices(curves) if len(curves) > 1 else None,
        map(_curve, curves),
        open="" if any(curve.varies for curve in curves) else None,
    )


def _choices(curves: Sequence[DrawnCurve]) -> Markup:
    buttons = [_choice(curve.label, data_show=curve.key) for curve in curves]
    return tag.div(buttons, class_="alloy-choices", role="group", aria_label=t("curve.which"))


def _choice(words: str, **data: str) -> Markup:
    return tag.button(words, type="button", **data)


def _curve(curve: DrawnCurve) -> Markup:
    names = {name: _line_name(name) for name in LINES}
    chosen = [_choice(words, data_choose=name) for name, words in names.items()]
    back = [
        tag.button(t("curve.follow"), type="button", data_alone=name, hidden="")
        for name in (ATTENTION, MLP)
        if curve.lines[name] is not None
    ]
    low, high = curve.ends
    svg = tag.svg(
        _axes(low, high), [_line(curve, name, words) for name, words in names.items()],
        viewBox=f"0 0 {WIDE} {TALL}", role="group", aria_label=curve.label, data_low=low, data_high=high,
        data_step=curve.parameter.step or 0.01, data_top=TOP, data_tall=BOTTOM - TOP,
    )  # fmt: skip
    group = tag.div(chosen, back, class_="alloy-choices", role="group", aria_label=t("curve.lines"))
    return tag.div(group, svg, data_curve=curve.key)


def _line_name(name: str) -> str:
    return t(f"curve.{name}")


def _axes(low: float, high: float) -> Markup:
    middle = (TOP + BOTTOM) / 2
    heights = ((TOP, high), (middle, (low + high) / 2), (BOTTOM, low))
    rulers = [tag.path(d=f"M{LEFT} {y}H{RIGHT}", class_="ruler") for y, _ in heights]
    numbers = [
        tag.text(f"{value:.3g}", x=LEFT - 8, y=y + 4, text_anchor="end", class_="axis")
        for y, value in heights
    ]
    ends = (("start", LEFT, "curve.first"), ("end", RIGHT, "curve.last"))
    layers = [tag.text(t(key), x=x, y=TALL - 6, text_anchor=anchor, class_="axis") for anchor, x, key in ends]
    return html(rulers, numbers, layers)


def _line(curve: DrawnCurve, name: str, words: str) -> Markup:
    points = curve.lines[name]
    shown = curve.rest if points is None else points
    places = [
        (LEFT + (RIGHT - LEFT) * number / (len(shown) - 1), _height(curve, value))
        for number, value in enumerate(shown)
    ]
    way = "L".join(f"{x:.2f} {y:.2f}" for x, y in places)
    sliders = [
        _point(curve, shown, number, f"{curve.label}, {words}", place) for number, place in enumerate(places)
    ]
    return tag.g(
        tag.path(d=f"M{way}"), sliders, class_=f"line-{name}", data_line=name,
        data_follows="" if points is None and name in (ATTENTION, MLP) else None,
    )  # fmt: skip


def _point(curve: DrawnCurve, points: Points, number: int, line: str, place: tuple[float, float]) -> Markup:
    x, y = place
    low, high = curve.ends
    value = f"{points[number]:g}"
    label = t("curve.point", line=line, number=number + 1, count=len(points))
    return tag.g(
        tag.circle(r=14, class_="reach"), tag.circle(r=5.5), tag.text(value, y=-10, text_anchor="middle"),
        role="slider", tabindex=0, aria_label=label, aria_orientation="vertical", aria_valuemin=f"{low:g}",
        aria_valuemax=f"{high:g}", aria_valuenow=value, data_x=f"{x:.2f}", transform=f"translate({x:.2f} {y:.2f})",
    )  # fmt: skip


def _height(curve: DrawnCurve, value: float) -> float:
    low, high = curve.ends
    return TOP + (BOTTOM - TOP) * (high - value) / ((high - low) or 1)

"""The Methods tab: what each method is, and a picture of what it does to three small vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from merging import METHODS, MergeError, MergeMethod, Parameter
from ui.languages.translate import in_each_language, of_registry, t
from ui.methods.plane import BASE, SCENES, Picture, Point, picture, start, taking_part
from ui.recipe.form_state import field_text
from ui.widgets.events import UNSEEN
from ui.widgets.html import (
    breakable,
    card,
    column,
    html,
    link,
    note,
    problem_list,
    quiet,
    scrolling,
    table,
    table_row,
    tag,
)

MOST_SLIDERS, MOST_SWITCHES, MOST_MENUS = 14, 4, 2
SIZE, MARGIN = 440, 14
SMALLEST_VIEW, LARGEST_VIEW = 1.6, 6.0
Spot = tuple[Parameter, str]  # a parameter, and the model it is for; empty: all


def methods_tab() -> None:
    """Build the tab inside the page's Blocks, and wire it."""
    first = next(iter(METHODS.values()))
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            method = gr.Dropdown(
                [(it.title, name) for name, it in METHODS.items()],
                value=first.name,
                label=t("methods.method"),
            )
            about = gr.HTML(in_each_language(lambda: about_card(METHODS[first.name])))
        with gr.Column(scale=5, min_width=320):
            scene = gr.Radio(
                [(t(f"methods.scene.{name}"), name) for name in SCENES], value="disagree", label=t("methods.scene"),
                info=t("methods.scene.info"),
            )  # fmt: skip
            drawing = gr.HTML()
            with gr.Row(elem_classes="alloy-knobs"):
                sliders = [
                    gr.Slider(0, 1, visible=False, min_width=150, label=t("methods.value"))
                    for _ in range(MOST_SLIDERS)
                ]
                switches = [
                    gr.Checkbox(visible=False, label=t("methods.value")) for _ in range(MOST_SWITCHES)
                ]
                menus = [gr.Dropdown([], visible=False, label=t("methods.value")) for _ in range(MOST_MENUS)]
    with gr.Accordion(t("methods.all"), open=False):
        gr.HTML(in_each_language(catalogue))
    fields: list[Any] = [*sliders, *switches, *menus]

    def chosen(name: str, where: str) -> list[Any]:
        method = METHODS[name]
        return [about_card(method), _drawn(method, where, {}), *_fields(method)]

    def moved(name: str, where: str, *values: Any) -> str:
        method = METHODS[name]
        return _drawn(method, where, _values(method, values))

    method.input(chosen, [method, scene], [about, drawing, *fields], concurrency_limit=2, **UNSEEN)
    gr.on(
        [scene.input, *(field.input for field in fields)],
        moved,
        [method, scene, *fields],
        drawing,
        trigger_mode="always_last",
        concurrency_limit=2,
        **UNSEEN,
    )
    opened = gr.Timer(
        0.1, active=True
    )  # once: the picture is drawn when the page is there, not while it is built
    opened.tick(
        lambda name, where: [*chosen(name, where), gr.Timer(active=False)],
        [method, scene],
        [about, drawing, *fields, opened],
        concurrency_limit=2,
        **UNSEEN,
    )


def about_card(method: MergeMethod) -> Markup:
    """What a method is, what it takes, and where it comes from."""
    needs = t(f"methods.base.{method.base}")
    low, high = method.min_models, method.max_models
    number = (
        t("methods.count.one", count=low) if low == high else t("methods.count.up", low=low)
        if high is None else t("methods.count.range", low=low, high=high)
    )  # fmt: skip
    title = tag.h2(method.title, " ", tag.code(method.name))
    rows = [
        table_row(
            tag.code(breakable(parameter.name)),
            tag.td(of_registry(parameter.help), tag.small(_expected(parameter))),
        )
        for parameter in method.parameters
    ]
    return card(
        [
            title,
            tag.p(of_registry(method.summary), " ", link(method.paper, t("recipe.paper"))),
            tag.p(method.formula, class_="alloy-formula"),
            quiet(t("methods.symbols")),
            quiet(f"{needs} {number}"),
            quiet(t("methods.random")) if method.is_random else None,
            table((), rows) if rows else None,
            quiet(_in_a_recipe(method)),
        ]
    )


def catalogue() -> Markup:
    """All methods in a table."""
    keys = ("methods.method", "methods.meaning", "methods.parameters", "methods.mergekit")
    methods = table(
        [column(t(key)) for key in keys], map(_in_catalogue, METHODS.values()), style="alloy-stacked"
    )
    return html(quiet(t("methods.symbols")), scrolling(methods, focusable=True))


def _in_catalogue(method: MergeMethod) -> Markup:
    return table_row(
        [link(method.paper, method.title), tag.small(tag.code(method.name))],
        tag.td(of_registry(method.summary), tag.p(method.formula, class_="alloy-formula")),
        tag.td(_codes(parameter.name for parameter in method.parameters)),
        tag.td(t("methods.mergekit.yes" if method.in_mergekit else "methods.mergekit.no")),
    )


def _in_a_recipe(method: MergeMethod) -> Markup:
    """How recipes name a method, and what mergekit makes of such a recipe."""
    line = html(
        tag.code(f"merge_method: {method.name}"),
        " · ",
        t("methods.recipe.same" if method.in_mergekit else "methods.recipe.own"),
    )
    for key, names in (
        ("methods.recipe.more", method.own_parameters),
        ("methods.recipe.idle", method.ignored),
    ):
        if names:
            line += html(" ", t(key), " ", _codes(names), ".")
    return line


def _codes(names: Iterable[str]) -> Markup:
    return Markup(", ").join(map(tag.code, names))


def drawing(picture: Picture) -> Markup:
    """The plane with the models, the result, and its path as a parameter changes."""
    at = _scale(picture)
    x, y = at((0.0, 0.0))
    shapes = [
        tag.path(class_="axis", d=f"M0 {y}H{SIZE}M{x} 0V{SIZE}"),
        *_vectors(picture, at),
        _path(picture, at),
        *_models(picture, at),
        *_results(picture, at),
    ]
    where = "; ".join(f"({x:.2f}, {y:.2f})" for x, y in picture.results[:4])
    label = t("methods.drawing", where=where)
    shown = tag.svg(shapes, class_="alloy-plane", role="img", aria_label=label, viewBox=f"0 0 {SIZE} {SIZE}")
    return html(shown, note(_legend(picture)))


def _scale(picture: Picture) -> Callable[[Point], Point]:
    """Where a point of the plane is in the drawing, which shows every model and result."""
    reach = max(abs(x) for point in (*picture.models.values(), *picture.results) for x in point)
    far = min(max((abs(x) for point in picture.path for x in point), default=0.0), 2 * SMALLEST_VIEW)
    scale = (SIZE / 2 - MARGIN) / min(max(SMALLEST_VIEW, 1.15 * reach, far), LARGEST_VIEW)
    return lambda point: (round(SIZE / 2 + point[0] * scale, 1), round(SIZE / 2 - point[1] * scale, 1))


def _vectors(picture: Picture, at: Callable[[Point], Point]) -> Iterator[Markup]:
    """From the base to each model."""
    x0, y0 = at(picture.models.get(BASE, (0.0, 0.0)))
    for name, point in picture.models.items():
        if name != BASE:
            x, y = at(point)
            yield tag.path(class_="vector", d=f"M{x0} {y0}L{x} {y}")


def _path(picture: Picture, at: Callable[[Point], Point]) -> Markup | None:
    if not _shows_path(picture):
        return None
    return tag.polyline(class_="way", points=" ".join(f"{x},{y}" for x, y in map(at, picture.path)))


def _shows_path(picture: Picture) -> bool:
    """Whether the result moves as the parameter changes, and does so without chance."""
    return len(set(picture.path)) > 1 and len(picture.results) == 1


def _models(picture: Picture, at: Callable[[Point], Point]) -> Iterator[Markup]:
    for name, point in picture.models.items():
        x, y = at(point)
        yield tag.circle(class_="base" if name == BASE else "model", cx=x, cy=y, r=5)
        yield tag.text(t("methods.point.base") if name == BASE else name, x=x + 8, y=y - 8)


def _results(picture: Picture, at: Callable[[Point], Point]) -> Iterator[Markup]:
    radius = 6.5 if len(picture.results) == 1 else 4
    for x, y in map(at, picture.results):
        yield tag.circle(class_="result", cx=x, cy=y, r=radius)


def _legend(picture: Picture) -> str:
    drawn = len(picture.results)
    legend = t("methods.legend" if drawn == 1 else "methods.legend.random", count=drawn)
    if not _shows_path(picture):
        return legend
    low, high = picture.ends
    return f"{legend} " + t(
        "methods.legend.way", name=_spoken(*picture.swept), low=f"{low:g}", high=f"{high:g}"
    )


def _drawn(method: MergeMethod, scene: str, values: Mapping[tuple[str, str], Any]) -> str:
    try:
        return drawing(picture(method, scene if scene in SCENES else next(iter(SCENES)), values))
    except MergeError as error:
        return card(problem_list(error.problems), "bad")


def _spots(method: MergeMethod) -> tuple[list[Spot], list[Spot], list[Spot]]:
    """What the sliders, switches and menus stand for."""
    owners = taking_part(method)
    spots = [(p, owner) for p in method.parameters for owner in (owners if p.per_model else ("",))]
    shown = [spot for spot in spots if start(spot[0]) is not None]
    numbers = [(p, owner) for p, owner in shown if p.kind in ("number", "integer") and p.low is not None]
    return (
        numbers[:MOST_SLIDERS],
        [spot for spot in shown if spot[0].kind == "bool"][:MOST_SWITCHES],
        [spot for spot in shown if spot[0].kind == "choice"][:MOST_MENUS],
    )


def _fields(method: MergeMethod) -> list[Any]:
    numbers, switches, menus = _spots(method)
    updates: list[Any] = []
    for spots, most in ((numbers, MOST_SLIDERS), (switches, MOST_SWITCHES), (menus, MOST_MENUS)):
        for parameter, owner in spots:
            label = _spoken(parameter.name, owner)
            extra: dict[str, Any] = {}
            if spots is numbers:
                extra = {"minimum": parameter.low, "maximum": parameter.high, "step": parameter.step}
            elif spots is menus:
                extra = {"choices": list(parameter.choices)}
            updates.append(gr.update(visible=True, value=start(parameter), label=label, **extra))
        updates += [gr.update(visible=False)] * (most - len(spots))
    return updates


def _values(method: MergeMethod, values: Sequence[Any]) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    begin = 0
    for spots, most in zip(_spots(method), (MOST_SLIDERS, MOST_SWITCHES, MOST_MENUS), strict=True):
        for (parameter, owner), value in zip(spots, values[begin : begin + most], strict=False):
            if value is not None and parameter.accepts(value):
                found[parameter.name, owner] = value
        begin += most
    return found


def _spoken(name: str, owner: str) -> str:
    return t("methods.of", name=name, model=owner) if owner else name


def _expected(parameter: Parameter) -> str:
    default = (
        t("methods.required")
        if parameter.required
        else t("methods.default", value=field_text(parameter.default))
    )
    if parameter.optional:
        default = t("methods.optional")
    each = f" {t('methods.each')}" if parameter.per_model else ""
    return f"{expects(parameter)}; {default}.{each}"


def expects(parameter: Parameter) -> str:
    """What a value has to be, as `Parameter.expected` tells it, in the visitor's language."""
    if parameter.kind in ("number", "integer") and not parameter.beyond and parameter.low is not None:
        low, high = f"{parameter.low:g}", f"{parameter.high:g}"
        return t(f"methods.expects.{parameter.kind}.range", low=low, high=high)
    return t(f"methods.expects.{parameter.kind}", choices=", ".join(parameter.choices))

"""The Methods tab: what each method is, and a picture of what it does to three small vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from merging import METHODS, MergeError, MergeMethod, Parameter
from ui.languages.translate import in_each_language, of_registry, t
from ui.methods.plane import BASE, SCENES, Picture, Point, picture, start, taking_part
from ui.recipe.form_state import field_text
from ui.widgets.events import UNSEEN
from ui.widgets.html import breakable, card, link, problem_list, text

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


def about_card(method: MergeMethod) -> str:
    """What a method is, what it takes, and where it comes from."""
    needs = t(f"methods.base.{method.base}")
    low, high = method.min_models, method.max_models
    number = (
        t("methods.count.one", count=low) if low == high else t("methods.count.up", low=low)
        if high is None else t("methods.count.range", low=low, high=high)
    )  # fmt: skip
    body = f"<p>{text(of_registry(method.summary))} {link(method.paper, t('recipe.paper'))}</p>"
    body += f'<p class="alloy-formula">{text(method.formula)}</p>'
    body += f'<p class="alloy-quiet">{text(t("methods.symbols"))}</p>'
    body += f'<p class="alloy-quiet">{text(needs)} {text(number)}</p>'
    if method.is_random:
        body += f'<p class="alloy-quiet">{text(t("methods.random"))}</p>'
    rows = "".join(
        f'<tr><th scope="row"><code>{breakable(parameter.name)}</code></th><td>{text(of_registry(parameter.help))}'
        f"<small>{text(_expected(parameter))}</small></td></tr>"
        for parameter in method.parameters
    )
    if rows:
        body += f'<table class="alloy-table"><tbody>{rows}</tbody></table>'
    body += f'<p class="alloy-quiet">{_in_a_recipe(method)}</p>'
    return card(f"<h2>{text(method.title)} <code>{text(method.name)}</code></h2>{body}")


def catalogue() -> str:
    """All methods in a table."""
    rows = "".join(
        f'<tr><th scope="row">{link(method.paper, method.title)}<small><code>{text(method.name)}</code></small></th>'
        f'<td>{text(of_registry(method.summary))}<p class="alloy-formula">{text(method.formula)}</p></td>'
        f"<td>{', '.join(f'<code>{text(parameter.name)}</code>' for parameter in method.parameters)}</td>"
        f"<td>{text(t('methods.mergekit.yes' if method.in_mergekit else 'methods.mergekit.no'))}</td></tr>"
        for method in METHODS.values()
    )
    heads = "".join(
        f'<th scope="col">{text(t(key))}</th>'
        for key in ("methods.method", "methods.meaning", "methods.parameters", "methods.mergekit")
    )
    table = f'<table class="alloy-table alloy-stacked"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    symbols = f'<p class="alloy-quiet">{text(t("methods.symbols"))}</p>'
    return f'{symbols}<div class="alloy-scroll" tabindex="0">{table}</div>'


def _in_a_recipe(method: MergeMethod) -> str:
    """How recipes name a method, and what mergekit makes of such a recipe."""
    name = f"<code>merge_method: {text(method.name)}</code>"
    said = text(t("methods.recipe.same" if method.in_mergekit else "methods.recipe.own"))
    for key, names in (
        ("methods.recipe.more", method.own_parameters),
        ("methods.recipe.idle", method.ignored),
    ):
        if names:
            listed = ", ".join(f"<code>{text(it)}</code>" for it in names)
            said += f" {text(t(key))} {listed}."
    return f"{name} · {said}"


def drawing(picture: Picture) -> str:
    """The plane with the models, the result, and the way it takes as a parameter is turned."""
    seen = [*picture.models.values(), *picture.results]
    reach = max(abs(x) for point in seen for x in point)
    far = min(max((abs(x) for point in picture.path for x in point), default=0.0), 2 * SMALLEST_VIEW)
    view = min(max(SMALLEST_VIEW, 1.15 * reach, far), LARGEST_VIEW)

    def at(point: Point) -> tuple[float, float]:
        scale = (SIZE / 2 - MARGIN) / view
        return round(SIZE / 2 + point[0] * scale, 1), round(SIZE / 2 - point[1] * scale, 1)

    origin = at((0.0, 0.0))
    parts = [
        f'<path class="axis" d="M0 {origin[1]}H{SIZE}M{origin[0]} 0V{SIZE}"/>',
    ]
    base = picture.models.get(BASE, (0.0, 0.0))
    for name, point in picture.models.items():
        (x, y), (x0, y0) = at(point), at(base)
        if name != BASE:
            parts.append(f'<path class="vector" d="M{x0} {y0}L{x} {y}"/>')
    if len(set(picture.path)) > 1:
        line = " ".join(f"{x},{y}" for x, y in map(at, picture.path))
        if len(picture.results) == 1:
            parts.append(f'<polyline class="way" points="{line}"/>')
    for name, point in picture.models.items():
        x, y = at(point)
        word = t("methods.point.base") if name == BASE else name
        kind = "base" if name == BASE else "model"
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="5"/>')
        parts.append(f'<text x="{x + 8}" y="{y - 8}">{text(word)}</text>')
    for point in picture.results:
        x, y = at(point)
        parts.append(
            f'<circle class="result" cx="{x}" cy="{y}" r="{6.5 if len(picture.results) == 1 else 4}"/>'
        )
    where = "; ".join(f"({x:.2f}, {y:.2f})" for x, y in picture.results[:4])
    label = t("methods.drawing", where=where)
    legend = t(
        "methods.legend" if len(picture.results) == 1 else "methods.legend.random", count=len(picture.results)
    )
    if len(set(picture.path)) > 1 and len(picture.results) == 1:
        low, high = picture.ends
        legend += " " + t(
            "methods.legend.way", name=_spoken(*picture.swept), low=f"{low:g}", high=f"{high:g}"
        )
    return (
        f'<svg class="alloy-plane" role="img" aria-label="{text(label)}" viewBox="0 0 {SIZE} {SIZE}">{"".join(parts)}'
        f'</svg><p class="alloy-method">{text(legend)}</p>'
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

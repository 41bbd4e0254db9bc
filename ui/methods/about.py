"""What each merge method is: a card for one, a table of all."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from merging import METHODS, MergeMethod, Parameter
from ui.languages.translate import method_summary, parameter_expects, parameter_help, t
from ui.recipe.form_state import field_text
from ui.widgets.html import breakable, card, column, html, link, quiet, scrolling, table, table_row, tag


def about_card(method: MergeMethod) -> Markup:
    """What a method is, what it takes, and where it comes from."""
    needs = t(f"methods.base.{method.base}")
    low, high = method.min_models, method.max_models
    number = (
        t("methods.count.fixed", count=low) if low == high else t("methods.count.up", low=low)
        if high is None else t("methods.count.range", low=low, high=high)
    )  # fmt: skip
    title = tag.h2(method.title, " ", tag.code(method.name))
    rows = [
        table_row(
            tag.code(breakable(parameter.name)),
            tag.td(parameter_help(method, parameter), tag.small(_expected(parameter))),
        )
        for parameter in method.parameters
    ]
    return card(
        [
            title,
            tag.p(method_summary(method), " ", link(method.paper, t("recipe.paper"))),
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
        tag.td(method_summary(method), tag.p(method.formula, class_="alloy-formula")),
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


def _expected(parameter: Parameter) -> str:
    default = (
        t("methods.required")
        if parameter.required
        else t("methods.default", value=field_text(parameter.default))
    )
    if parameter.optional:
        default = t("methods.optional")
    each = f" {t('methods.each')}" if parameter.per_model else ""
    return f"{parameter_expects(parameter)}; {default}.{each}"

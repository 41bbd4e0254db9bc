"""Whatever a widget is given is text: a law over every function that makes HTML."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import get_type_hints

import pytest
from markupsafe import Markup

from merging import Problem
from tests.ui.html import Tags
from ui.languages.translate import speaking
from ui.widgets import heat_map, html

SCRIPT = "<script>alert(1)</script>\"'&"


def problem(words: str) -> Problem:
    """With these words in its message, in what to do, and as its place."""
    return Problem("unknown-method", {"name": words, "near": words, "known": []}, words)


# By annotation, as it is written: harmless values, and the same ones with a script in them.
VALUES: dict[str, tuple[object, object]] = {
    "str": ("safe", SCRIPT),
    "str | None": ("https://safe", f"https://{SCRIPT}"),
    "object": ("safe", SCRIPT),
    "Content": ("safe", ["safe", (SCRIPT, None, 3)]),
    "Problem": (problem("safe"), problem(SCRIPT)),
    "Sequence[Problem]": ([], [problem(SCRIPT)]),
    "Mapping[str, Cells]": ({"safe": [1.0, 2.0]}, {SCRIPT: [1.0, None, 2.0]}),
    "int": (2, 2),
    "bool": (True, True),
}
MAKERS = {
    f"{module.__name__}.{name}": function
    for module in (html, heat_map)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
    if get_type_hints(function)["return"] is Markup
}
CASES = [(maker, argument) for maker in MAKERS for argument in inspect.signature(MAKERS[maker]).parameters]


def called(function: Callable[..., Markup], hostile: str) -> Markup:
    """What a function makes of harmless arguments, but for one."""
    positional: list[object] = []
    named: dict[str, object] = {}
    for argument in inspect.signature(function).parameters.values():
        value = VALUES[argument.annotation][argument.name == hostile]
        if argument.kind is argument.VAR_KEYWORD:
            named["title"] = value
        elif argument.kind is argument.KEYWORD_ONLY:
            named[argument.name] = value
        else:
            positional.append(value if argument.name != "name" or function is not html.element else "p")
    with speaking("en"):
        return function(*positional, **named)


@pytest.mark.parametrize(("maker", "argument"), CASES)
def test_no_argument_of_a_widget_becomes_markup(maker: str, argument: str) -> None:
    made = called(MAKERS[maker], argument)

    tags = Tags(str(made))
    assert isinstance(made, Markup)
    assert "script" not in tags.names
    assert not [name for name, _ in tags.attributes if name.startswith("on")]


def test_the_law_sees_every_widget() -> None:
    assert {"ui.widgets.html.card", "ui.widgets.html.link", "ui.widgets.heat_map.heat_map"} <= set(MAKERS)
    assert len(MAKERS) >= 20


def test_markup_is_kept_and_attributes_are_named_as_in_html() -> None:
    made = html.tag.p(html.tag.b("1 < 2"), " & ", 3, None, class_="a", aria_label='"', title=None)

    assert made == '<p class="a" aria-label="&#34;"><b>1 &lt; 2</b> &amp; 3</p>'


def test_a_string_of_html_that_was_written_by_hand_is_text() -> None:
    assert html.card("<b>bold</b>") == '<div class="alloy-card alloy-idle">&lt;b&gt;bold&lt;/b&gt;</div>'


def test_a_link_leads_nowhere_but_to_the_web() -> None:
    assert html.link("javascript:alert(1)", "label") == "label"

"""Saying things in the language that a visitor reads: the browser's first, or English.

What is built once for all visitors (labels, buttons, tabs) carries its translations and is said by the browser;
what is made for one visitor (cards, updates) is said here, in the language that the request asks for. What a
language lacks is said in English.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import gradio as gr
from gradio.context import LocalContext

from checkpoints.problems import Problem, ProblemError
from checkpoints.wording import Template
from evaluation.remark import Remark
from merging import METHODS, MergeMethod, Parameter
from ui.languages.english import ENGLISH
from ui.languages.language import Language
from ui.languages.registry import LANGUAGES

# Set while something is said in each language in turn.
_language: ContextVar[str | None] = ContextVar("language", default=None)


class Translated(str):
    """A text in English that knows what it is in the other languages."""

    translations: dict[str, str]

    def __str__(self) -> str:
        return self  # components make texts of their values, and would lose the translations


class ProblemWords(NamedTuple):
    """A problem's words in a visitor's language: what is wrong, and what to do (empty if the message says it all)."""

    message: str
    fix: str


def t(key: str, **values: object) -> str:
    """The page's sentence for a key, with its values filled in."""
    return in_each_language(lambda: _filled(lambda language: language.page, key, values))


def method_summary(method: MergeMethod) -> str:
    """What a merge method does."""
    return in_each_language(lambda: _filled(lambda language: language.methods, method.name))


def parameter_help(method: MergeMethod, parameter: Parameter) -> str:
    """What a parameter of a merge method sets."""
    key = f"{method.name}.{parameter.name}"
    return in_each_language(lambda: _filled(lambda language: language.methods, key))


def parameter_expects(parameter: Parameter) -> str:
    """What a parameter's value has to be, as `Parameter.expected` tells it."""
    if parameter.kind in ("number", "integer") and not parameter.beyond and parameter.low is not None:
        low, high = f"{parameter.low:g}", f"{parameter.high:g}"
        return t(f"methods.expects.{parameter.kind}.range", low=low, high=high)
    return t(f"methods.expects.{parameter.kind}", choices=", ".join(parameter.choices))


def label(key: str) -> str:
    """What `evaluation` calls something: `report.CODE`, `benchmark.NAME`."""
    return in_each_language(lambda: _filled(lambda language: language.labels, key))


def problem_words(problem: Problem) -> ProblemWords:
    """A problem's message and fix."""
    language = LANGUAGES[current_language() or ENGLISH.tag]
    if problem.code not in language.problems:
        return ProblemWords(problem.message, problem.fix)
    values = {**problem.values, **_about_parameter(problem.values)}
    return ProblemWords(
        *(language.wording.sentence(part, values) for part in language.problems[problem.code])
    )


def remark_words(remark: Remark | Problem) -> str:
    """What can be said of a result."""
    if isinstance(remark, Problem):
        return " ".join(filter(None, problem_words(remark)))
    language = LANGUAGES[current_language() or ENGLISH.tag]
    has_words = remark.code in language.wording.phrases
    return remark.words(language.wording if has_words else ENGLISH.wording)


def error_words(error: ProblemError) -> str:
    """What is wrong and what to do, as a text of one line a problem."""
    return "\n".join(map(remark_words, error.problems))


def _about_parameter(values: Mapping[str, Any]) -> dict[str, str]:
    """What values of a problem say of a parameter in English, in the visitor's language."""
    method = METHODS.get(values.get("method", ""))
    parameter = method.parameter(values.get("parameter", "")) if method else None
    if method is None or parameter is None:
        return {}
    return {"help": parameter_help(method, parameter), "expected": parameter_expects(parameter)}


def _filled(
    table: Callable[[Language], Mapping[str, Template]], key: str, values: Mapping[str, object] | None = None
) -> str:
    """A sentence of the visitor's language, or else in English; without values its braces are its own."""
    wanted = LANGUAGES[current_language() or ENGLISH.tag]
    language = wanted if key in table(wanted) else ENGLISH
    template = table(language)[key]
    return language.wording.sentence(template, values) if values else str(template)


def current_language() -> str | None:
    """Of the request that is being answered; None while the page is built, for everybody."""
    if wanted := _language.get():
        return wanted
    request = LocalContext.request.get(None)
    if request is None:
        return None
    return spoken(str(request.headers.get("accept-language") or ""))


def spoken(asked: str) -> str:
    """Of the languages here, the one that a browser's `accept-language` asks for."""
    # The first alone: Gradio's own words in the browser go by that.
    tag = asked.partition(",")[0].partition(";")[0].partition("-")[0].strip().lower()
    return tag if tag in LANGUAGES else ENGLISH.tag


@contextmanager
def speaking(name: str | None) -> Iterator[None]:
    """Say everything in one language, whatever the request asks for; None changes nothing."""
    token = _language.set(name)
    try:
        yield
    finally:
        _language.reset(token)


def in_each_language(make: Callable[[], str]) -> str:
    """What `make` says, with its translations; in the visitor's language alone where there is a visitor."""
    if current_language() is not None:
        return make()
    translations = {}
    for name in LANGUAGES:
        with speaking(name):
            translations[name] = str(make())
    said = Translated(translations[ENGLISH.tag])
    said.translations = translations
    return said


# Properties of components that the browser translates.
_SPOKEN = ("label", "info", "placeholder")
_SPOKEN_VALUES = (gr.Button, gr.UploadButton, gr.DownloadButton, gr.HTML)


def translated(page: gr.Blocks) -> gr.I18n:
    """Let the browser say every text of a page in its language.

    Returns:
        What `launch` has to be given.
    """
    tables: dict[str, dict[str, str]] = {name: {} for name in LANGUAGES}

    def marked(text: object) -> object:
        if not isinstance(text, Translated):
            return text
        key = f"alloy.{len(tables[ENGLISH.tag])}"
        for name, translation in text.translations.items():
            tables[name][key] = translation
        return gr.i18n.I18nData(key)

    for block in page.blocks.values():
        for name in (*_SPOKEN, *(["value"] if isinstance(block, _SPOKEN_VALUES) else [])):
            if isinstance(getattr(block, name, None), Translated):
                setattr(block, name, marked(getattr(block, name)))
        if isinstance(choices := getattr(block, "choices", None), list):
            choices[:] = [(marked(said), value) for said, value in choices]
    for name, table in tables.items():
        with speaking(name):
            # Gradio's page says this to screen readers, and has no words for it.
            table["common.complete"] = str(t("common.complete"))
    return gr.I18n(**tables)

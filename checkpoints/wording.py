"""Filling values into a sentence, by the rules of a language.

    {name}                     a value
    {count:layer|layers}       the form that fits a value: here singular or plural
    {names:all}                a list: a, b, c
    {names:plain}              the same of names that are no phrases, whatever they are
    {names:and}                a list: a, b and c
    {names:code}               the same, each in backticks
    {names:few}                what `few` made of a list: a, b, c and 7 more
    {names:each}               a list: a; b; c
    {what:phrase}              a phrase, or the value itself if it names none
    {size:,} {share:.1%}       Python's own formats

A sentence may be several templates: the first whose values are all given is used. A value is not given where it is
missing, None or empty. A phrase is a part of a sentence with a name of its own; as a value it is that name, or, where
it has values itself, `{"phrase": name, ...}`. Lists may hold phrases.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

Template = str | tuple[str, ...]
FEW = 3


def few(names: Sequence[str | Mapping[str, Any]]) -> dict[str, Any]:
    """The first of many names or phrases, and how many more there are, as a value of a sentence."""
    return {"first": list(names[:FEW]), "more": max(len(names) - FEW, 0)}


def placeholders(template: str) -> set[str]:
    """The names of a template's values."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


class Wording(string.Formatter):
    """The rules of English; other languages override them.

    Args:
        phrases: what sentences are made of besides values, by name
    """

    conjunction = " and "
    more = "{names} and {count} more"

    def __init__(self, phrases: Mapping[str, Template] | None = None):
        self.phrases = phrases or {}

    def sentence(self, template: Template, values: Mapping[str, Any]) -> str:
        """A template, or the first of several whose values are all given, with its values filled in."""
        templates = (template,) if isinstance(template, str) else template
        for one in templates[:-1]:
            if all(values.get(name) not in (None, "", [], {}) for name in placeholders(one)):
                return self.vformat(one, (), values)
        return self.vformat(templates[-1], (), values)

    def form(self, value: Any, forms: Sequence[str]) -> str:
        """Of several forms of a word the one that fits a value: a number, or a list and its length."""
        count = value if isinstance(value, int | float) else len(value)
        return forms[0] if count == 1 else forms[-1]

    def format_field(self, value: Any, format_spec: str) -> str:
        if "|" in format_spec:
            return self.form(value, format_spec.split("|"))
        match format_spec:
            case "all":
                return ", ".join(map(self.phrase, value))
            case "each":
                return "; ".join(map(self.phrase, value))
            case "plain":
                return ", ".join(map(str, value))
            case "and":
                return self._listed([self.phrase(item) for item in value])
            case "code":
                return self._listed([f"`{item}`" for item in value])
            case "few":
                names = ", ".join(map(self.phrase, value["first"]))
                return self.more.format(names=names, count=value["more"]) if value["more"] else names
            case "phrase":
                return self.phrase(value)
        if isinstance(value, Mapping) and "phrase" in value:
            return self.phrase(value)
        return str(super().format_field(value, format_spec))

    def phrase(self, value: str | Mapping[str, Any]) -> str:
        """What a name or a mapping says; a text that names no phrase says itself."""
        name, values = (value, {}) if isinstance(value, str) else (value["phrase"], value)
        return self.sentence(self.phrases[name], values) if name in self.phrases else str(value)

    def _listed(self, names: Sequence[str]) -> str:
        if len(names) < 2:
            return "".join(names)
        return ", ".join(names[:-1]) + self.conjunction + names[-1]


def size_in_words(size: float) -> str:
    """Bytes as people say them: 513 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"

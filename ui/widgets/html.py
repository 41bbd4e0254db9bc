"""Pieces of HTML for the cards: everything that comes from outside goes through `text` first."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

from merging import Problem
from ui.languages.translate import of_problem, t


def text(value: object) -> str:
    """The value, safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)


def breakable(name: object) -> str:
    """A long name of a tensor, as `text` gives it, that is broken after dots and underscores where it has to be."""
    return re.sub(r"(?<=[._])(?=\w)", "<wbr>", text(name))


def link(url: str | None, label: str) -> str:
    """A link that opens beside the page; the bare label if the address is not one of the web."""
    if not url or not url.startswith(("https://", "http://")):
        return text(label)
    return f'<a href="{text(url)}" target="_blank" rel="noopener noreferrer">{text(label)}</a>'


def card(body: str, mood: str = "idle") -> str:
    """A framed card; the mood (good, bad, busy, idle) colours its mark."""
    return f'<div class="alloy-card alloy-{mood}">{body}</div>'


def heading(title: str, level: int = 3) -> str:
    """A card's heading, with its coloured mark; the level is the one below what it stands under."""
    return f'<h{level}><span class="alloy-mark" aria-hidden="true"></span>{text(title)}</h{level}>'


def problem_list(problems: Sequence[Problem]) -> str:
    """Problems one below the other: what, where, and what to do."""
    items = []
    for problem in problems:
        where = f'<span class="where">{text(_place(problem.where))}</span> ' if problem.where else ""
        items.append(f"<li>{where}{sentences(problem)}</li>")
    return f'<ul class="alloy-problems">{"".join(items)}</ul>'


def sentences(problem: Problem) -> str:
    """What is wrong and what to do: the engine's English, and before it a sentence for who reads another language."""
    fix = f' <b class="fix">{text(problem.fix)}</b>' if problem.fix else ""
    english = f"{text(problem.message)}{fix}"
    words = of_problem(problem.code)
    return f'<strong>{text(words)}</strong> <span lang="en">{english}</span>' if words else english


def _place(where: str) -> str:
    found = re.fullmatch(r"line (\d+), column (\d+)", where)
    return t("problem.place", line=found[1], column=found[2]) if found else where


def size(number: float) -> str:
    """Bytes as people say them: 513 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def count(number: int) -> str:
    """A large number in short: 135 M."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 3 min, 1.5 h."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.5:
        return t("unit.second", value=f"{seconds:.1f}")
    if seconds < 90:
        return t("unit.second", value=round(seconds))
    if seconds < 90 * 60:
        return t("unit.minute", value=round(seconds / 60))
    return t("unit.hour", value=f"{seconds / 3600:.1f}")

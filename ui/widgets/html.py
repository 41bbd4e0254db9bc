"""HTML for the cards. Text is escaped wherever it is put in: only `Markup`, which these functions return, is not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias

from markupsafe import Markup, escape

from checkpoints.problems import Place, Problem
from ui.languages.translate import problem_words, t

# What an element may contain: text, numbers, Markup, nothing, or several of these.
Content: TypeAlias = "str | float | Iterable[Content] | None"


def html(*content: Content) -> Markup:
    """The content joined: Markup unchanged, anything else escaped.

    >>> html("a < b", [tag.b("c"), None])
    Markup('a &lt; b<b>c</b>')
    """
    return Markup("").join(map(escape, _pieces(content)))


def element(name: str, /, *content: Content, **attributes: object) -> Markup:
    """One element; see `tag`.

    Args:
        name: of the element
        content: goes between its tags
        attributes: `class_` is written as class and `aria_label` as aria-label; None leaves an attribute out
    """
    said = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, said, html(*content))


class _Tags:
    def __getattr__(self, name: str) -> Callable[..., Markup]:
        return partial(element, name)


# Makes elements: `tag.p("1 < 2", class_="alloy-quiet")` is <p class="alloy-quiet">1 &lt; 2</p>.
tag = _Tags()


def _pieces(content: Iterable[Content]) -> Iterable[object]:
    for piece in content:
        if piece is None:
            continue
        if isinstance(piece, Iterable) and not isinstance(piece, str):
            yield from _pieces(piece)
        else:
            yield piece


def card(body: Content, mood: str = "idle") -> Markup:
    """A framed card; the mood (good, bad, busy, idle) colours its mark."""
    return tag.div(body, class_=f"alloy-card alloy-{mood}")


def heading(title: str, level: int = 3) -> Markup:
    """A card's heading, with its coloured mark; the level is one below the heading that the card is under."""
    return element(f"h{level}", tag.span(class_="alloy-mark", aria_hidden="true"), title)


def quiet(words: Content) -> Markup:
    """A paragraph of lesser weight."""
    return tag.p(words, class_="alloy-quiet")


def note(words: Content) -> Markup:
    """A paragraph that explains a part of the page."""
    return tag.p(words, class_="alloy-method")


def status(words: Content) -> Markup:
    """A line about what is being done, which a screen reader announces."""
    return tag.p(words, class_="alloy-method", role="status")


def alert(words: Content) -> Markup:
    """A line about what went wrong, which a screen reader announces at once."""
    return tag.p(words, class_="alloy-trouble", role="alert")


def section(title: str) -> Markup:
    """The heading of a part of a tab."""
    return tag.h2(title, class_="alloy-section")


def part(title: str) -> Markup:
    """The heading of a part of a card."""
    return tag.h3(title, class_="alloy-part")


def folded(summary: Content, *body: Content) -> Markup:
    """Content below a line that unfolds it."""
    return tag.details(tag.summary(summary), body)


def column(words: Content, *, of_figures: bool = False) -> Markup:
    """A column's heading."""
    return tag.th(words, scope="col", class_="number" if of_figures else None)


def figure(number: Content) -> Markup:
    """A cell with a figure, which is aligned to the right."""
    return tag.td(number, class_="number")


def table_row(name: Content, *cells: Content) -> Markup:
    """A row of a table: its heading, then its cells, as `figure` and `tag.td` make them."""
    return tag.tr(tag.th(name, scope="row"), cells)


def table(columns: Content, rows: Content, *, caption: str = "", style: str = "") -> Markup:
    """A table.

    Args:
        columns: as `column` makes them; none for a table without a head
        rows: as `table_row` makes them
        caption: below the table
        style: classes on top of the usual one
    """
    top = html(columns)
    return tag.table(
        tag.caption(caption) if caption else None,
        tag.thead(tag.tr(top)) if top else None,
        tag.tbody(rows),
        class_=f"alloy-table {style}".rstrip(),
    )


def scrolling(wide: Content, *, focusable: bool = False) -> Markup:
    """Content that scrolls sideways on a narrow screen; `focusable` lets the keyboard scroll it."""
    return tag.div(wide, class_="alloy-scroll", tabindex=0 if focusable else None)


def bar(percent: int, label: str) -> Markup:
    """A progress bar."""
    return tag.div(
        tag.span(style=f"width:{percent}%"), class_="alloy-bar", role="progressbar", aria_label=label,
        aria_valuemin=0, aria_valuemax=100, aria_valuenow=percent,
    )  # fmt: skip


def breakable(name: object) -> Markup:
    """A tensor's long name, which may break after dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])(?=\w)", str(name)))


def link(url: str | None, label: str) -> Markup:
    """A link that opens in a new tab; the bare label if the address is not one of the web."""
    if not url or not url.startswith(("https://", "http://")):
        return escape(label)
    return tag.a(label, href=url, target="_blank", rel="noopener noreferrer")


def problem_list(problems: Sequence[Problem]) -> Markup:
    """Problems one below the other: what, where, and what to do."""
    return tag.ul(map(_problem, problems), class_="alloy-problems")


def _problem(problem: Problem) -> Markup:
    where = [tag.span(_place(problem.where), class_="where"), " "] if problem.where else None
    return tag.li(where, sentences(problem))


def sentences(problem: Problem) -> Markup:
    """What is wrong and what to do, in the visitor's language."""
    message, fix = problem_words(problem)
    return html(prose(message), [" ", tag.b(prose(fix), class_="fix")] if fix else None)


def prose(words: str) -> Markup:
    """A sentence, in which what is between backticks is code."""
    parts = re.split(r"`([^`\n]+)`", words)
    return html(tag.code(part) if number % 2 else part for number, part in enumerate(parts))


def trouble(problem: Problem) -> Markup:
    """A problem in a line."""
    return alert(sentences(problem))


def _place(where: Place | str) -> str:
    return t("problem.place", line=where.line, column=where.column) if isinstance(where, Place) else where


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

"""A text, coloured token by token where one model predicted it better or worse than another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup, escape

from evaluation import Perplexity
from evaluation.difference import segments
from ui.languages.translate import t
from ui.score.reading import TextRow
from ui.widgets.html import card, folded, html, tag

# The picture of a longer text would be slow to draw.
MAX_CHARACTERS = 8000
# A difference of this many bits has the deepest colour; below a sixteenth of it a token has none.
FULL_BITS = 4.0
# Blue and orange, which almost everybody can tell apart. At most half opaque, so that the page's own text colour stays
# readable in the light and in the dark.
BETTER, WORSE, DEEPEST = "37,110,200", "214,110,20", 0.5


def token_picture(row: TextRow, other: TextRow, texts: Sequence[str]) -> Markup:
    """The texts as one model predicted them beside another; empty before both have read them."""
    if not (row.score and row.score.documents and other.score and other.score.documents):
        return Markup("")
    pieces = html(_coloured_texts(row.score, other.score, texts)).rstrip()
    legend = Markup(" ").join(
        [
            _coloured(t("score.picture.better", model=row.name), FULL_BITS, titled=False),
            _coloured(t("score.picture.worse", model=row.name), -FULL_BITS, titled=False),
            t("score.picture.scale"),
        ]
    )
    total = sum(map(len, texts))
    cut = tag.p(t("score.picture.cut", count=MAX_CHARACTERS, total=total)) if total > MAX_CHARACTERS else None
    picture = tag.p(pieces, style="white-space:pre-wrap;line-height:1.75")
    return card(folded(t("score.picture", model=row.name, other=other.name), tag.p(legend), cut, picture))


def _coloured_texts(score: Perplexity, other: Perplexity, texts: Sequence[str]) -> Iterator[Markup]:
    """The texts in coloured pieces, as far as the picture has room."""
    room = MAX_CHARACTERS
    for one, two, document in zip(score.documents, other.documents, texts, strict=True):
        parts = segments(one, two)
        at = min(parts.start, room)
        yield escape(document[:at])
        for end, (nats, nats_other) in zip(parts.ends.tolist(), parts.nats.tolist(), strict=True):
            if end > room:
                break
            yield _coloured(document[at:end], (nats_other - nats) / math.log(2))
            at = end
        room -= at
        if room <= 0 or at < (int(parts.ends[-1]) if len(parts.ends) else 0):
            break
        yield Markup("\n\n")


def _coloured(piece: str, bits: float, *, titled: bool = True) -> Markup:
    """A piece of text over blue (bits saved) or orange (bits lost, underlined too, for readers who see no colours)."""
    depth = round(min(abs(bits) / FULL_BITS, 1) * 8) / 8
    if not depth:
        return escape(piece)
    colour, line = (BETTER, "none") if bits > 0 else (WORSE, "underline dotted")
    title = t("score.picture.bits", bits=f"{-bits:+.1f}") if titled else None
    style = f"background:rgba({colour},{depth * DEEPEST:.3f});text-decoration:{line};border-radius:2px"
    return tag.span(piece, style=style, title=title)

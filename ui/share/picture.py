"""The picture of a recipe that other sites show beside a link (Open Graph): where it is from, how it is made."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ui.recipe.drawn_curves import ATTENTION, MLP, REST, Points

WIDE, TALL, EDGE = 1200, 630, 60
MOST_PARENTS, LONGEST_NAME, LONGEST_LINE = 4, 30, 100
# Pixels between the left edge and the curve.
BESIDE_CURVE = WIDE - 2 * EDGE - 420 - 40
MAX_PICTURES = 64
SMALLEST = 12  # pixels, of letters
# Pictures take some milliseconds of a processor, and one is drawn at a time.
_one_at_a_time = threading.Lock()
_PAPER, _INK, _QUIET, _LINE = "#fbfaf8", "#1c1917", "#6b6460", "#c9c3be"
_BRONZE, _STEEL, _LIGHT = "#a85220", "#8a8580", "#eab080"
_COLOURS = {REST: _BRONZE, ATTENTION: "#3f7fa6", MLP: "#2f8f4e"}


@dataclass(frozen=True)
class Pictured:
    """What a picture shows. All of it is drawn in Latin letters: the font that comes with Pillow has no others.

    Args:
        title: of the recipe, or the result's name
        method: the method's name
        parents: names of models
        lines: of a curve, by name, with points from 0 to 1; none where nothing varies
        result: in the box that the parents lead to
        said: lines below, such as the gain over the best parent
    """

    title: str
    method: str
    parents: tuple[str, ...]
    lines: tuple[tuple[str, Points], ...] = ()
    result: str = "your merge"
    said: tuple[str, ...] = ()


@lru_cache(MAX_PICTURES)
def picture(shown: Pictured) -> bytes:
    """A PNG of WIDE by TALL pixels."""
    with _one_at_a_time:
        image = Image.new("RGB", (WIDE, TALL), _PAPER)
        draw = ImageDraw.Draw(image)
        _mark(draw)
        _text(draw, (EDGE, 118), cut(shown.title, 44), 46, _INK)
        _text(draw, (EDGE, 182), cut(shown.method, 60), 30, _BRONZE)
        _lineage(draw, shown.parents, shown.result)
        if shown.lines:
            _curve(draw, shown.lines)
        wide = BESIDE_CURVE if shown.lines else WIDE - 2 * EDGE
        for place, line in enumerate(shown.said):
            _fitting(draw, (EDGE, TALL - 96 + 34 * place), cut(line, LONGEST_LINE), 24, wide)
        content = io.BytesIO()
        image.save(content, "PNG", optimize=False)
        return content.getvalue()


def cut(text: str, most: int) -> str:
    """A text of at most this many characters, of those that the font has."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def _mark(draw: ImageDraw.ImageDraw) -> None:
    """The two metals, and the name of the page."""
    left, top, wide = EDGE, 40, 52
    draw.ellipse((left, top, left + wide, top + wide), fill="#c76d2f")
    draw.ellipse((left + 26, top, left + 26 + wide, top + wide), fill=_STEEL)
    lens = Image.new("1", (WIDE, TALL))
    ImageDraw.Draw(lens).ellipse((left, top, left + wide, top + wide), fill=1)
    other = Image.new("1", (WIDE, TALL))
    ImageDraw.Draw(other).ellipse((left + 26, top, left + 26 + wide, top + wide), fill=1)
    both = Image.composite(lens, Image.new("1", (WIDE, TALL)), other)
    draw.bitmap((0, 0), both, fill=_LIGHT)
    _text(draw, (left + 98, top + 8), "Alloy", 34, _INK)


def _lineage(draw: ImageDraw.ImageDraw, parents: Sequence[str], result: str) -> None:
    """Boxes of the parents, and a line from each to that of the result."""
    shown = [name.rstrip("/").rpartition("/")[2] or name for name in parents[:MOST_PARENTS]]
    top, tall, gap, wide = 250, 52, 14, 420
    whole = len(shown) * (tall + gap) - gap
    middle = top + max(whole, tall) / 2
    left = WIDE - EDGE - wide
    for place, name in enumerate(shown):
        y = top + place * (tall + gap)
        draw.line(((EDGE + wide, y + tall / 2), (left, middle)), fill=_LINE, width=3)
        _box(draw, EDGE, y, wide, tall, name, _STEEL)
    _box(draw, left, middle - tall / 2, wide, tall, result.rpartition("/")[2] or result, _BRONZE)


def _box(
    draw: ImageDraw.ImageDraw, left: float, top: float, wide: float, tall: float, name: str, colour: str
) -> None:
    draw.rounded_rectangle((left, top, left + wide, top + tall), 10, fill="white", outline=colour, width=3)
    _text(draw, (left + 16, top + 13), cut(name, LONGEST_NAME), 24, _INK)


def _curve(draw: ImageDraw.ImageDraw, lines: Sequence[tuple[str, Points]]) -> None:
    """The lines of a curve, from the first layer to the last, in the lower right corner."""
    left, top, wide, tall = WIDE - EDGE - 420, 440, 420, 130
    draw.rectangle((left, top, left + wide, top + tall), outline=_LINE, width=2)
    for name, points in lines:
        values = points if len(points) > 1 else points * 2
        step = wide / (len(values) - 1)
        corners = [(left + step * place, top + (1 - value) * tall) for place, value in enumerate(values)]
        draw.line(corners, fill=_COLOURS.get(name, _BRONZE), width=5, joint="curve")


def _fitting(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], words: str, height: int, wide: int
) -> None:
    """A whole line of up to this many pixels: long ones are written smaller, as their figure is at their end."""
    while height > SMALLEST and draw.textlength(words, font=ImageFont.load_default(height)) > wide:
        height -= 1
    _text(draw, corner, words, height, _INK)


def _text(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], words: str, height: int, colour: str
) -> None:
    draw.text(corner, words, font=ImageFont.load_default(height), fill=colour)

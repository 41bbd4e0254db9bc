"""What a visitor may want, as cards: each starts from a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ui.languages.translate import t
from ui.widgets.html import html, section, tag

# Says which card was pressed.
PRESSED = """
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-wish]");
  if (card) trigger("click", {wish: card.dataset.wish});
});
"""


@dataclass(frozen=True)
class Wish:
    """A card.

    Args:
        key: of its words
        preset: the key of the recipe that it loads; empty for the one that asks for a recipe
        drawing: what the wish looks like, in a box of 72 by 40
    """

    key: str
    preset: str
    drawing: Markup


def _box(x: float, y: float, width: float, height: float, metal: str) -> Markup:
    return tag.rect(x=x, y=y, width=width, height=height, rx=2, class_=metal)


def _disc(x: float, y: float, radius: float, metal: str) -> Markup:
    return tag.circle(cx=x, cy=y, r=radius, class_=metal)


def _line(way: str) -> Markup:
    return tag.path(d=way, class_="line")


_ARROW = _line("M27 20h12m-4 -4l4 4l-4 4")
_PLUS = _line("M36 14v12m-6 -6h12")

WISHES = (
    Wish("blend", "slerp", html(
        _disc(28, 20, 15, "bronze"), _disc(44, 20, 15, "steel"),
        tag.path(d="M36 7.3a15 15 0 0 1 0 25.4a15 15 0 0 1 0 -25.4z", class_="light"),
    )),
    Wish("skill", "task_arithmetic", html(
        _box(4, 6, 20, 28, "steel"), _PLUS, _disc(58, 12, 7, "bronze"), _disc(58, 29, 7, "light"),
    )),
    Wish("chat", "chat_vector", html(
        tag.path(d="M4 6h34v22h-22l-7 7v-7h-5z", class_="steel"), tag.text("가", x=21, y=23),
        tag.path(d="M44 14h24v15h-4v5l-5 -5h-15z", class_="bronze"), _line("M49 19.5h14m-14 4.5h9"),
    )),
    Wish("lora", "lora", html(
        _box(4, 8, 14, 24, "steel"), _box(20, 8, 4, 24, "bronze"), _ARROW, _box(44, 8, 24, 24, "steel"),
        tag.path(d="M44 26l18 -18h6v4l-20 20h-4z", class_="bronze"),
    )),
    Wish("deeper", "depth", html(
        [_box(4, 28 - 7 * step, 18, 5, "steel") for step in range(3)], _ARROW,
        [_box(48, 34 - 7 * step, 18, 5, "bronze" if step in (2, 3) else "steel") for step in range(5)],
    )),
    Wish("own", "", html(
        _box(18, 2, 36, 36, "steel"), _line("M24 10h12m-8 7h20m-20 7h14m-18 7h10"),
    )),
)  # fmt: skip


def wish_cards() -> Markup:
    """All of them, below the question that they answer."""
    cards = tag.div(map(_card, WISHES), class_="alloy-wishes", role="group", aria_label=t("wish.heading"))
    return html(section(t("wish.heading")), cards)


def _card(wish: Wish) -> Markup:
    drawing = tag.svg(wish.drawing, viewBox="0 0 72 40", aria_hidden="true")
    words = tag.span(
        tag.b(t(f"wish.{wish.key}")),
        " ",
        tag.span(t(f"wish.{wish.key}.about")),
        " ",
        tag.small(t(f"wish.{wish.key}.method")),
    )
    return tag.button(drawing, words, type="button", data_wish=wish.key)

"""A badge for model cards: "Made with Alloy: remix", which leads to the landing of the model's recipe."""

from __future__ import annotations

from markupsafe import Markup

from ui.widgets.html import tag

_LEFT, _RIGHT = "Made with Alloy", "remix"
_LEFT_WIDE, _RIGHT_WIDE, _TALL = 112, 50, 20


def badge() -> Markup:
    """The picture, as SVG."""
    wide, words = _LEFT_WIDE + _RIGHT_WIDE, f"{_LEFT}: {_RIGHT}"
    halves = [
        tag.rect(width=_LEFT_WIDE, height=_TALL, fill="#44403c"),
        tag.rect(x=_LEFT_WIDE, width=_RIGHT_WIDE, height=_TALL, fill="#a85220"),
    ]
    labels = [
        tag.text(_LEFT, x=_LEFT_WIDE / 2, y=14, textLength=_LEFT_WIDE - 14),
        tag.text(_RIGHT, x=_LEFT_WIDE + _RIGHT_WIDE / 2, y=14, textLength=_RIGHT_WIDE - 14),
    ]
    around = tag.clipPath(tag.rect(width=wide, height=_TALL, rx=3), id="a")
    return tag.svg(
        tag.title(words),
        around,
        tag.g(halves, clip_path="url(#a)"),
        tag.g(
            labels, fill="#fff", text_anchor="middle", font_family="Verdana,DejaVu Sans,sans-serif",
            font_size=11,
        ),
        xmlns="http://www.w3.org/2000/svg", width=wide, height=_TALL, role="img", aria_label=words,
    )  # fmt: skip


def badge_in_markdown(page: str, name: str) -> str:
    """The line for a model's card.

    Args:
        page: the address of the page, without a slash at its end
        name: owner/name, which a Hub's name consists of letters that Markdown leaves alone
    """
    return f"[![{_LEFT}: {_RIGHT}]({page}/share/badge.svg)]({page}/share?merge={name})"

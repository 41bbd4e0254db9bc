"""Reads HTML that the page shows."""

from __future__ import annotations

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Collects elements, attributes and text of well-formed HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(str(html))  # of Markup, pieces would be Markup and escaped where they are joined
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag != "wbr":  # the one element here that has no end
            self.open.append(tag)
        self.attributes += attrs

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

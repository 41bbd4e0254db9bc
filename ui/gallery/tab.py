"""The Gallery tab: merges on the Hub, to look at, to remix and to chat with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from checkpoints.names import hub_id
from merging import METHODS
from ui.gallery.card import PRESSED, gallery_cards
from ui.gallery.hub_merges import ORDERS, TAGS, GalleryMerge, HubMerges, Listed, PageCursor, Wanted
from ui.gallery.sketch import EXPERTS
from ui.languages.translate import in_each_language, t
from ui.widgets.events import NETWORK, Given, Updates, detail, unchanged
from ui.widgets.html import note

ANY = ""
LICENCES = (
    "apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma", "other",
)  # fmt: skip
LANGUAGES = ("en", "ko", "zh", "ja", "de", "fr", "es", "ru", "vi", "th", "id", "multilingual")
_MILLION, _BILLION = 10**6, 10**9
# By the key of its words: from this number of parameters, and below that one.
SIZES = {
    "tiny": (0, 500 * _MILLION),
    "small": (500 * _MILLION, 2 * _BILLION),
    "middle": (2 * _BILLION, 9 * _BILLION),
    "large": (9 * _BILLION, 0),
}
# Merges that are shown; after them the filters have to help.
MOST_SHOWN = 120


class GalleryTab:
    """The tab, made inside the page's Blocks.

    Attributes:
        merges: what the Hub has
        box: the column around everything
        cards: its `click` says which `merge` was pressed, and `what` is wanted of it: see `pressed`
        shown: a state with the merges that the tab shows
    """

    def __init__(self, merges: HubMerges) -> None:
        self.merges = merges
        with gr.Column() as self.box:
            self._fields()
        self.shown = gr.State(())
        self.following = gr.State(None)

    def _fields(self) -> None:
        gr.HTML(in_each_language(lambda: note(t("gallery.about"))))
        with gr.Row():
            self.base = gr.Textbox(
                label=t("gallery.base"), placeholder="owner/name", max_lines=1, min_width=200
            )
            self.method = _choice("gallery.method", _methods())
            self.licence = _choice("gallery.licence", [(name, name) for name in LICENCES])
            self.language = _choice("gallery.language", [(name, name) for name in LANGUAGES])
            self.size = _choice("gallery.size", [(t(f"gallery.size.{name}"), name) for name in SIZES])
            self.tag = _choice("gallery.tag", [("Alloy", "alloy"), ("mergekit", "mergekit")])
            self.order = gr.Dropdown(
                [(t(f"gallery.order.{order}"), order) for order in ORDERS], value=ORDERS[0],
                label=t("gallery.order"), min_width=140,
            )  # fmt: skip
        self.cards = gr.HTML(js_on_load=PRESSED)
        self.more = gr.Button(t("gallery.more"), visible=False)

    def wire(self, opened: gr.Tab) -> None:
        """Add the events.

        Args:
            opened: this tab
        """
        fields: set[Any] = {
            self.base, self.method, self.licence, self.language, self.size, self.tag, self.order, self.shown,
            self.following,
        }  # fmt: skip
        outputs = [self.cards, self.more, self.shown, self.following]
        looking: dict[str, Any] = {"show_progress_on": self.cards, **NETWORK}
        opened.select(self._opened, fields, outputs, **looking)
        chosen = [self.method, self.licence, self.language, self.size, self.tag, self.order]
        gr.on(
            [self.base.submit, self.base.blur, *(field.input for field in chosen)], self._listed, fields,
            outputs, trigger_mode="always_last", **looking,
        )  # fmt: skip
        self.more.click(self._more, fields, outputs, trigger_mode="once", **looking)

    def pressed(self, event: gr.EventData, shown: Sequence[GalleryMerge]) -> tuple[str, GalleryMerge | None]:
        """What was pressed, and the merge that it was pressed for; None unless the tab shows it."""
        name = detail(event, "merge")
        found = next((one for one in shown if one.model.name == name), None)
        return str(detail(event, "what")), found

    def wanted(self, given: Given) -> Wanted:
        """What the fields say; a base that is no name is as good as none."""
        base = (given[self.base] or "").strip()
        smallest, largest = SIZES.get(given[self.size] or ANY, (0, 0))
        return Wanted(
            tag=next((tag for tag in TAGS if tag == given[self.tag]), None),
            base=base if hub_id(base) and "/" in base else "",
            licence=given[self.licence] or "",
            language=given[self.language] or "",
            method=given[self.method] or "",
            smallest=smallest,
            largest=largest,
            order=next((order for order in ORDERS if order == given[self.order]), ORDERS[0]),
        )

    def _opened(self, given: Given) -> Updates:
        """The first page, when the tab is opened for the first time."""
        if given[self.shown] or given[self.following]:
            return unchanged()
        return self._listed(given)

    def _listed(self, given: Given) -> Updates:
        return self._show((), self.merges.page(self.wanted(given)))

    def _more(self, given: Given) -> Updates:
        place, shown = given[self.following], given[self.shown]
        if not isinstance(place, PageCursor):
            return unchanged()
        return self._show(shown, self.merges.page(self.wanted(given), place))

    def _show(self, before: Sequence[GalleryMerge], listed: Listed) -> Updates:
        by_name = {one.model.name: one for one in (*before, *listed.merges)}
        shown = tuple(by_name.values())[:MOST_SHOWN]
        goes_on = listed.following is not None and len(by_name) < MOST_SHOWN
        return {
            self.cards: gallery_cards(shown, listed),
            self.more: gr.update(visible=goes_on),
            self.shown: shown,
            self.following: listed.following,
        }


def _choice(label: str, choices: Sequence[tuple[str, str]]) -> gr.Dropdown:
    """A filter that begins with any."""
    return gr.Dropdown(
        [(t("gallery.any"), ANY), *choices], value=ANY, label=t(label), min_width=140, filterable=False
    )


def _methods() -> list[tuple[str, str]]:
    return [(t("experts.title"), EXPERTS), *((method.title, name) for name, method in METHODS.items())]

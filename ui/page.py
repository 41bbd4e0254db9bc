"""The page: its head, its tabs, and what runs between them."""

from __future__ import annotations

import gradio as gr

from ui.api import add_api
from ui.chat_tab import chat_tab
from ui.host import Host
from ui.hub_search import HubSearch
from ui.jobs import JobBoard
from ui.markup import text
from ui.merge_tab import QUIET, MergeTab
from ui.score_tab import score_tab
from ui.texts import t
from ui.workshop import Workshop

# Two metals that run into one another.
_MARK = (
    '<svg viewBox="0 0 48 48" aria-hidden="true"><defs><clipPath id="a"><circle cx="18" cy="24" r="15"/></clipPath>'
    '</defs><circle cx="18" cy="24" r="15" fill="#c76d2f"/><circle cx="30" cy="24" r="15" fill="#8a8580"/>'
    '<circle cx="30" cy="24" r="15" fill="#eab080" clip-path="url(#a)"/></svg>'
)


def build_page(host: Host) -> gr.Blocks:
    """The whole page, ready to be launched."""
    workshop = Workshop(host, JobBoard())
    search = HubSearch()
    page = gr.Blocks(title=t("page.title"), analytics_enabled=False)
    with page:
        with gr.Row(equal_height=False):
            gr.HTML(
                f'<header class="alloy-head">{_MARK}<div><h1>{text(t("page.title"))}</h1>'
                f"<p>{text(t('page.subtitle'))}</p></div></header>",
            )
            if host.sign_in:
                # Without OAuth at hand Gradio's button would not let the page start.
                gr.LoginButton(scale=0, min_width=200)
        with gr.Tabs() as tabs:
            with gr.Tab(t("page.tab.merge"), id="merge"):
                merge = MergeTab(host, workshop, search)
            with gr.Tab(t("page.tab.chat"), id="chat"):
                chat = chat_tab(host, search)
            with gr.Tab(t("page.tab.score"), id="score"):
                score = score_tab(host, search)

        merge.wire(page, chat.models, score.models)
        merge.chat.click(lambda: gr.Tabs(selected="chat"), None, tabs, **QUIET)
        merge.score.click(lambda: gr.Tabs(selected="score"), None, tabs, **QUIET)
        add_api(workshop)
    return page

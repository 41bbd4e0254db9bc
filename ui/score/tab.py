"""The Score tab: a merge judged beside its parents, by a text, benchmarks, answers, its weights, its size and speed."""

from __future__ import annotations

import gradio as gr

from ui.host import Host
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import t
from ui.recipe.presets import family
from ui.score.benchmarks import BenchmarksPanel
from ui.score.chat_check import ChatPanel
from ui.score.panel import MAX_MODELS
from ui.score.report import ReportPanel
from ui.score.sizes import SizesPanel
from ui.score.text import TextPanel
from ui.score.weights import WeightsPanel


class ScoreTab:
    """The tab, made inside the page's Blocks.

    Attributes:
        models: whose names the page may fill in
        document: the text that they read
    """

    def __init__(self, host: Host, search: HubSearch) -> None:
        known = family(host.demo).models
        self.models = gr.Dropdown(
            list(known), value=[known[0]], multiselect=True, max_choices=MAX_MODELS, allow_custom_value=True,
            label=t("score.models"), info=t("score.models.info", most=MAX_MODELS),
        )  # fmt: skip
        search_as_you_type(self.models, search, host, known)
        found = gr.HTML(elem_classes="alloy-overview")
        text = TextPanel(host, self.models)
        self.document = text.fields.document
        with gr.Accordion(t("score.benchmarks"), open=False):
            benchmarks = BenchmarksPanel(host, self.models)
        with gr.Accordion(t("score.chat"), open=False):
            chat = ChatPanel(host, self.models)
        with gr.Accordion(t("score.weights"), open=False):
            weights = WeightsPanel(host, self.models, search, text.fields.document)
        with gr.Accordion(t("score.sizes"), open=False):
            sizes = SizesPanel(host, self.models, text)
        ReportPanel(host, [text, benchmarks, chat, weights, sizes], found)

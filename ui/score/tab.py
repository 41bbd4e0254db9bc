"""The Score tab: a merge judged beside its parents, by a text, benchmarks, answers, its weights, its size and speed."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.host import Host
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import t
from ui.recipe.presets import family
from ui.score.benchmarks import benchmarks_panel
from ui.score.chat_check import chat_panel
from ui.score.panel import MOST_MODELS
from ui.score.report import card_panel
from ui.score.sizes import sizes_panel
from ui.score.text import text_panel
from ui.score.weights import weights_panel


@dataclass
class ScoreTab:
    """What the page connects to the Merge tab."""

    models: gr.Dropdown


def score_tab(host: Host, search: HubSearch) -> ScoreTab:
    """Build the tab inside the page's Blocks."""
    known = family(host.demo).models
    models = gr.Dropdown(
        list(known), value=[known[0]], multiselect=True, max_choices=MOST_MODELS, allow_custom_value=True,
        label=t("score.models"), info=t("score.models.info", most=MOST_MODELS),
    )  # fmt: skip
    search_as_you_type(models, search, host, known)
    text = text_panel(host, models)
    with gr.Accordion(t("score.benchmarks"), open=False):
        benchmarks = benchmarks_panel(host, models)
    with gr.Accordion(t("score.chat"), open=False):
        chat = chat_panel(host, models)
    with gr.Accordion(t("score.weights"), open=False):
        weights = weights_panel(host, models, search, text.document)
    with gr.Accordion(t("score.sizes"), open=False):
        sizes = sizes_panel(host, models, text.found)
    card_panel(host, [text, benchmarks, chat, weights, sizes])
    return ScoreTab(models)

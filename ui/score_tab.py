"""The Score tab: a merge judged beside its parents, by a text, benchmarks, answers, its weights, its size and speed."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.host import Host
from ui.hub_search import HubSearch, search_as_you_type
from ui.presets import family
from ui.score_benchmarks import benchmarks_panel
from ui.score_card import card_panel
from ui.score_chat import chat_panel
from ui.score_models import MOST_MODELS
from ui.score_sizes import sizes_panel
from ui.score_text import text_panel
from ui.score_weights import weights_panel
from ui.texts import t


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

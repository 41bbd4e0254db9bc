"""How answers are sampled, and the fields of the Chat tab that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr

from evaluation.llama_model import has_llama_cpp
from ui.languages.translate import t
from ui.server import gpu
from ui.widgets.events import Given

if TYPE_CHECKING:
    from evaluation.runtime import Runtime

MAX_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Sampling:
    """How answers are generated, the same for all models.

    Args:
        system: the system prompt; empty for none
        temperature: 0 always takes the most likely token
        top_p: sample from the most likely tokens that together have this probability
        max_new_tokens: where an answer is cut
        seed: the same seed gives the same answer
        runtime: what runs the models on a processor
    """

    system: str = ""
    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = gpu.USUAL_ANSWER
    seed: int = 0
    runtime: Runtime = "auto"


class SamplingFields:
    """The fields, folded; made inside the page's Blocks."""

    def __init__(self) -> None:
        with gr.Accordion(t("chat.settings"), open=False):
            self.system = gr.Textbox(label=t("chat.system"), max_lines=4)
            with gr.Row():
                self.temperature = gr.Slider(
                    0, 2, 0.7, step=0.05, label=t("chat.temperature"), info=t("chat.temperature.info"), min_width=200
                )  # fmt: skip
                self.top_p = gr.Slider(
                    0.05, 1, 0.9, step=0.05, label=t("chat.top_p"), info=t("chat.top_p.info"), min_width=200
                )
                self.max_new_tokens = gr.Slider(
                    16, MAX_NEW_TOKENS, gpu.USUAL_ANSWER, step=8, label=t("chat.length"), min_width=200
                )
                self.seed = gr.Number(
                    0, label=t("chat.seed"), info=t("chat.seed.info"), precision=0, min_width=120
                )
            runtimes = [(t("chat.runtime.auto"), "auto"), ("transformers", "transformers")]
            self.runtime = gr.Dropdown(
                runtimes,
                value="auto",
                label=t("chat.runtime"),
                info=t("chat.runtime.info"),
                visible=has_llama_cpp(),
            )
        self.inputs = {
            self.system, self.temperature, self.top_p, self.max_new_tokens, self.seed, self.runtime,
        }  # fmt: skip

    def sampling(self, given: Given) -> Sampling:
        """What the fields say."""
        return Sampling(
            given[self.system] or "",
            given[self.temperature],
            given[self.top_p],
            min(int(given[self.max_new_tokens]), MAX_NEW_TOKENS),
            int(given[self.seed] or 0),
            given[self.runtime],
        )

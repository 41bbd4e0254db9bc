"""The fields of a LoRA that becomes a model of its own: its base, the adapter, and how strongly it counts."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.languages.translate import in_each_language, t
from ui.merge.special_form import SpecialForm
from ui.recipe import lora_state
from ui.recipe.lora_state import MOST_SCALE, LoraState
from ui.widgets.events import Given, Updates
from ui.widgets.html import quiet


class LoraForm(SpecialForm[LoraState]):
    """The fields, made inside the page's Blocks."""

    def __init__(self, known: tuple[str, ...], adapter: str) -> None:
        """Args:
        known: models to offer before anything is typed
        adapter: to offer; an empty list of choices would keep Gradio from showing what has the value
        """
        with gr.Column(visible=False, elem_classes="alloy-fields") as self.column:
            gr.HTML(in_each_language(lambda: quiet(t("lora.about"))))
            self.base = gr.Dropdown(
                list(known),
                value=None,
                label=t("lora.base"),
                info=t("lora.base.info"),
                allow_custom_value=True,
            )
            self.adapter = gr.Dropdown(
                [adapter],
                value=None,
                label=t("lora.adapter"),
                info=t("lora.adapter.info"),
                allow_custom_value=True,
            )
            self.scale = gr.Slider(
                0, MOST_SCALE, value=1, step=0.05, label=t("lora.scale"), info=t("lora.scale.info")
            )
        self.shown = gr.State(None)

    @property
    def values(self) -> list[Any]:
        return [self.base, self.adapter, self.scale]

    @property
    def model_fields(self) -> list[gr.Dropdown]:
        return [self.base, self.adapter]

    def read(self, text: str) -> LoraState | None:
        return lora_state.read(text)

    def show(self, state: LoraState) -> Updates:
        return {
            self.column: gr.update(visible=True),
            self.shown: state,
            self.base: gr.update(value=state.base or None),
            self.adapter: gr.update(value=state.adapter or None),
            self.scale: state.scale,
        }

    def collect(self, values: Given) -> LoraState:
        before: LoraState = values[self.shown] or LoraState()
        base, adapter = (str(values[field] or "").strip() for field in (self.base, self.adapter))
        return LoraState(base, adapter, round(float(values[self.scale]), 4), before.extra)

    def rewritten(self, text: str, state: LoraState) -> str:
        return lora_state.rewritten(text, state)

"""The fields of a model whose middle layers are there twice: how many from its start, how many from its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from merging import MergeError, read_recipe
from ui.languages.translate import in_each_language, t
from ui.merge.special_form import SpecialForm
from ui.merge.staircase import stairs_picture
from ui.recipe import depth_state
from ui.recipe.depth_state import DepthState
from ui.widgets.events import Given, Updates
from ui.widgets.html import html, quiet


class DepthForm(SpecialForm[DepthState]):
    """The fields, made inside the page's Blocks.

    Attributes:
        stairs: the layers of the result as a picture
    """

    def __init__(self, known: tuple[str, ...]) -> None:
        with gr.Column(visible=False, elem_classes="alloy-fields") as self.column:
            gr.HTML(in_each_language(lambda: quiet(t("depth.about"))))
            self.model = gr.Dropdown(list(known), value=None, label=t("depth.model"), allow_custom_value=True)
            with gr.Row():
                self.first = gr.Slider(1, 2, value=1, step=1, label=t("depth.first"), min_width=200)
                self.last = gr.Slider(1, 2, value=1, step=1, label=t("depth.last"), min_width=200)
            self.stairs = gr.HTML()
        self.shown = gr.State(None)

    @property
    def values(self) -> list[Any]:
        return [self.model, self.first, self.last]

    @property
    def outputs(self) -> list[Any]:
        return [*super().outputs, self.stairs]

    @property
    def model_fields(self) -> list[gr.Dropdown]:
        return [self.model]

    def read(self, text: str) -> DepthState | None:
        return depth_state.read(text)

    def show(self, state: DepthState) -> Updates:
        return {
            self.column: gr.update(visible=True),
            self.shown: state,
            self.model: gr.update(value=state.model or None),
            self.first: gr.update(maximum=state.layers, value=state.first),
            self.last: gr.update(maximum=state.layers, value=state.last),
            self.stairs: _picture(state),
        }

    def collect(self, values: Given) -> DepthState:
        before: DepthState = values[self.shown] or DepthState()
        first, last = (min(max(int(values[field]), 1), before.layers) for field in (self.first, self.last))
        return replace(before, model=str(values[self.model] or "").strip(), first=first, last=last)

    def rewritten(self, text: str, state: DepthState) -> str:
        return depth_state.rewritten(text, state)

    def _changed(self, values: Given) -> Updates:
        updates = super()._changed(values)
        state = updates.get(self.shown)
        return {**updates, self.stairs: _picture(state)} if isinstance(state, DepthState) else updates


def _picture(state: DepthState) -> Markup:
    """The staircase of the result, and what it says in words."""
    try:
        stairs = stairs_picture(read_recipe(depth_state.rewritten("", state)))
    except MergeError:
        stairs = Markup("")  # without a model's name, say
    total = state.first + state.last
    key = "depth.twice" if state.twice > 0 else "depth.cut" if state.twice < 0 else "depth.same"
    words = t(key, before=state.layers, after=total, count=abs(state.twice))
    return html(stairs, quiet(words))

"""The Methods tab: what each method is, and a picture of what it does to three small vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from markupsafe import Markup

from merging import METHODS, MergeError, MergeMethod
from ui.languages.translate import in_each_language, t
from ui.methods.about import about_card, catalogue
from ui.methods.demo import SCENES, demo
from ui.methods.drawing import drawing
from ui.methods.fields import DemoFields
from ui.widgets.events import UNSEEN, Given, Updates
from ui.widgets.html import card, problem_list


class MethodsTab:
    """The tab, made inside the page's Blocks."""

    def __init__(self) -> None:
        first = next(iter(METHODS.values()))
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self.method = gr.Dropdown(
                    [(it.title, name) for name, it in METHODS.items()], value=first.name, label=t("methods.method")
                )  # fmt: skip
                self.about = gr.HTML(in_each_language(lambda: about_card(first)))
            with gr.Column(scale=5, min_width=320):
                self.scene = gr.Radio(
                    [(t(f"methods.scene.{name}"), name) for name in SCENES], value="disagree",
                    label=t("methods.scene"), info=t("methods.scene.info"),
                )  # fmt: skip
                self.drawing = gr.HTML()
                self.fields = DemoFields()
        with gr.Accordion(t("methods.all"), open=False):
            gr.HTML(in_each_language(catalogue))
        self._wire()

    def _wire(self) -> None:
        quiet: dict[str, Any] = {**UNSEEN, "concurrency_limit": 2}
        outputs = [self.about, self.drawing, *self.fields.outputs]
        self.method.input(self._choose, {self.method, self.scene}, outputs, **quiet)
        gr.on(
            [self.scene.input, *(field.input for field in self.fields.outputs)],  # type: ignore[attr-defined]
            self._draw,
            {self.method, self.scene, *self.fields.outputs},
            self.drawing,
            trigger_mode="always_last",
            **quiet,
        )
        # Ticks once: the picture is drawn after the page has loaded, not while it is built.
        self.opened = gr.Timer(0.1, active=True)
        self.opened.tick(self._open, {self.method, self.scene}, [*outputs, self.opened], **quiet)

    def _open(self, given: Given) -> Updates:
        return {**self._choose(given), self.opened: gr.Timer(active=False)}

    def _choose(self, given: Given) -> Updates:
        method = METHODS[given[self.method]]
        return {
            self.about: about_card(method),
            self.drawing: _drawn(method, given[self.scene], {}),
            **self.fields.show(method),
        }

    def _draw(self, given: Given) -> Updates:
        method = METHODS[given[self.method]]
        return {self.drawing: _drawn(method, given[self.scene], self.fields.values(method, given))}


def _drawn(method: MergeMethod, scene: str, values: Mapping[tuple[str, str], Any]) -> Markup:
    try:
        return drawing(demo(method, scene if scene in SCENES else next(iter(SCENES)), values))
    except MergeError as error:
        return card(problem_list(error.problems), "bad")

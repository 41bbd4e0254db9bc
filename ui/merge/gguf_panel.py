"""The types of GGUF files that a merge is to make as well, with their sizes; and GGUF files of any model."""

from __future__ import annotations

from typing import Any

import gradio as gr
from markupsafe import Markup

from merging import MergeError, Plan
from merging.gguf.layout import check_converter
from merging.gguf.types import FILE_TYPES
from ui.languages.translate import in_each_language, t
from ui.widgets.html import html, size, status, tag

# Ticked for whoever asks for GGUF files without choosing types.
USUAL = "Q4_K_M"


class GgufPanel:
    """The fields, made inside the page's Blocks; hidden where the converter is not installed.

    Attributes:
        types: that are ticked
        any_model: around the fields for any model
        model: any model, for which `go` makes GGUF files
        command: makes the same from a shell
    """

    def __init__(self) -> None:
        self.types = gr.CheckboxGroup(
            list(FILE_TYPES), value=[], label=t("gguf.types"), info=t("gguf.types.info"), visible=_is_here()
        )
        with gr.Accordion(
            t("gguf.any"), open=False, visible=_is_here(), elem_classes="alloy-gguf"
        ) as self.any_model:
            self.model = gr.Textbox(label=t("gguf.model"), info=t("gguf.model.info"), max_lines=1)
            self.message = gr.HTML(in_each_language(_about))
            self.go = gr.Button(t("gguf.button"), scale=0, min_width=140)
            self.command = gr.HTML()

    def sizes(self, plan: Plan) -> Any:
        """The types with the size that each has of a plan's result."""
        shapes = [tensor.shape for tensor in plan.tensors]
        if not shapes:
            return gr.update(choices=list(FILE_TYPES))
        return gr.update(
            choices=[
                (t("gguf.type", type=kind.name, size=size(kind.estimated_bytes(shapes))), kind.name)
                for kind in FILE_TYPES.values()
            ]
        )


def _is_here() -> bool:
    try:
        check_converter()
    except MergeError:
        return False
    return True


def _about() -> str:
    return status(t("gguf.any.info"))


def shell(command: str) -> Markup:
    """A command that makes the same files from a shell."""
    return html(tag.p(t("jobs.shell")), tag.pre(command))

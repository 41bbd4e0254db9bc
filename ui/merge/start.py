"""What a recipe starts from: a preset, or a merged model, a link or a file that holds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging import MergeError, Problem
from ui.host import Host
from ui.hub.account import account
from ui.hub.recipes import MAX_RECIPE, find_recipe, recipe_in
from ui.languages.translate import in_each_language, t
from ui.merge.editor import RecipeEditor
from ui.merge.form import FormMemory
from ui.recipe.presets import Preset, presets
from ui.widgets.events import NETWORK, QUIET, Updates
from ui.widgets.html import status, tag, trouble


@dataclass
class Start:
    """The row of presets and the folded field below it."""

    host: Host
    buttons: dict[str, gr.Button]
    source: gr.Textbox
    open: gr.Button
    file: gr.File
    message: gr.HTML

    def wire(self, editor: RecipeEditor) -> None:
        """Let every start put its recipe into the editor."""
        self.editor = editor
        memory, outputs = editor.form.memory, [self.message, *editor.outputs]
        for preset in presets(self.host.demo):
            button = self.buttons[preset.key]
            button.click(self._starter(preset), memory, editor.outputs, **QUIET)
        gr.on(
            [self.open.click, self.source.submit], self._from_source, [self.source, memory], outputs,
            show_progress="hidden", **NETWORK,
        )  # fmt: skip
        self.file.upload(self._from_file, [self.file, memory], outputs, **QUIET)

    def _starter(self, preset: Preset) -> Callable[[FormMemory], Updates]:
        return lambda memory: self.editor.show(preset.recipe, memory, t("undo.preset", name=preset.title))

    def _from_source(self, source: str, memory: FormMemory, oauth: gr.OAuthToken | None) -> Updates:
        try:
            text, name = find_recipe(source or "", account(self.host, oauth))
        except MergeError as error:
            return {self.message: trouble(error.problems[0])}
        line = t("recipe.opened", name=name) if name else t("recipe.opened.file")
        return {self.message: status(line), **self.editor.show(text, memory, line)}

    def _from_file(self, content: bytes | None, memory: FormMemory) -> Updates:
        text = recipe_in((content or b"")[:MAX_RECIPE].decode(errors="replace"))
        if text is None:
            return {self.message: trouble(Problem("file-without-recipe"))}
        line = t("recipe.opened.file")
        return {self.message: status(line), **self.editor.show(text, memory, line)}


def build_start(host: Host) -> Start:
    """Make the row where the page is being built."""
    with gr.Row(elem_classes="alloy-presets"):
        gr.HTML(in_each_language(lambda: tag.span(t("recipe.start"))))
        buttons = {
            preset.key: gr.Button(preset.title, size="sm", scale=0, min_width=90)
            for preset in presets(host.demo)
        }
    with gr.Accordion(t("recipe.more"), open=False), gr.Row(equal_height=True):
        with gr.Column(scale=3, min_width=280):
            with gr.Row(equal_height=False):
                source = gr.Textbox(
                    label=t("recipe.source"), placeholder=t("recipe.source.placeholder"), max_lines=1,
                    min_width=200, scale=4,
                )  # fmt: skip
                opener = gr.Button(t("recipe.open"), scale=0, min_width=90)
            message = gr.HTML()
        with gr.Column(scale=2, min_width=240):
            types: list[Any] = [".yml", ".yaml", ".json", ".md", ".txt"]
            file = gr.File(label=t("recipe.file"), type="binary", file_types=types, height=150)
    return Start(host, buttons, source, opener, file, message)

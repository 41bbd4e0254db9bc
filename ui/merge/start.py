"""What a recipe starts from: a wish, another preset, or a merged model, a link or a file that holds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from checkpoints.yaml import RECIPE
from merging import MergeError, Problem
from ui.host import Host
from ui.hub.account import account
from ui.hub.recipes import find_recipe, recipe_in
from ui.languages.translate import in_each_language, t
from ui.merge.editor import RecipeEditor
from ui.merge.form import FormMemory
from ui.merge.wishes import PRESSED, WISHES, wish_cards
from ui.recipe.presets import Preset, presets
from ui.widgets.events import NETWORK, PRIVATE, QUIET, Updates, detail, unchanged
from ui.widgets.html import status, tag, trouble

# The field for a recipe of one's own, once it is unfolded.
SHOW_SOURCE = """() => requestAnimationFrame(() => {
  const field = document.querySelector(".alloy-source :is(input, textarea)");
  if (field?.checkVisibility()) field.focus();
})"""


@dataclass
class Start:
    """The wishes, the row of the other presets, and the folded field below it."""

    host: Host
    wishes: gr.HTML
    buttons: dict[str, gr.Button]
    more: gr.Accordion
    source: gr.Textbox
    open: gr.Button
    file: gr.File
    message: gr.HTML

    def wire(self, editor: RecipeEditor) -> None:
        """Let every start put its recipe into the editor."""
        self.editor = editor
        memory, outputs = editor.form.memory, [self.message, *editor.outputs]
        self.wishes.click(self._wished, memory, [self.more, *editor.outputs], **QUIET).then(
            None, None, None, js=SHOW_SOURCE, **PRIVATE
        )
        for preset in presets(self.host.demo):
            if preset.key in self.buttons:
                self.buttons[preset.key].click(self._starter(preset), memory, editor.outputs, **QUIET)
        gr.on(
            [self.open.click, self.source.submit], self._from_source, [self.source, memory], outputs,
            show_progress="hidden", **NETWORK,
        )  # fmt: skip
        self.file.upload(self._from_file, [self.file, memory], outputs, **QUIET)

    def _starter(self, preset: Preset) -> Callable[[FormMemory], Updates]:
        return lambda memory: self.editor.show(preset.recipe, memory, t("undo.preset", name=preset.title))

    def _wished(self, memory: FormMemory, pressed: gr.EventData) -> Updates:
        wish = next((wish for wish in WISHES if wish.key == detail(pressed, "wish")), None)
        if wish is None:
            return unchanged()
        if not wish.preset:
            return {self.more: gr.Accordion(open=True)}
        preset = next(preset for preset in presets(self.host.demo) if preset.key == wish.preset)
        return {self.more: gr.Accordion(open=False), **self._starter(preset)(memory)}

    def _from_source(self, source: str, memory: FormMemory, oauth: gr.OAuthToken | None) -> Updates:
        try:
            text, name = find_recipe(source or "", account(self.host, oauth))
        except MergeError as error:
            return {self.message: trouble(error.problems[0])}
        line = t("recipe.opened", name=name) if name else t("recipe.opened.file")
        return {self.message: status(line), **self.editor.show(text, memory, line)}

    def _from_file(self, content: bytes | None, memory: FormMemory) -> Updates:
        text = recipe_in((content or b"")[:RECIPE].decode(errors="replace"))
        if text is None:
            return {self.message: trouble(Problem("file-without-recipe"))}
        line = t("recipe.opened.file")
        return {self.message: status(line), **self.editor.show(text, memory, line)}


def build_start(host: Host) -> Start:
    """Make the row where the page is being built."""
    wishes = gr.HTML(in_each_language(wish_cards), js_on_load=PRESSED)
    wished = {wish.preset for wish in WISHES}
    with gr.Row(elem_classes="alloy-presets"):
        gr.HTML(in_each_language(lambda: tag.span(t("recipe.start"))))
        buttons = {
            preset.key: gr.Button(preset.title, size="sm", scale=0, min_width=90)
            for preset in presets(host.demo)
            if preset.key not in wished
        }
    with gr.Accordion(t("recipe.more"), open=False) as more, gr.Row(equal_height=True):
        with gr.Column(scale=3, min_width=280):
            with gr.Row(equal_height=False):
                source = gr.Textbox(
                    label=t("recipe.source"), placeholder=t("recipe.source.placeholder"), max_lines=1,
                    min_width=200, scale=4, elem_classes="alloy-source",
                )  # fmt: skip
                opener = gr.Button(t("recipe.open"), scale=0, min_width=90)
            message = gr.HTML()
        with gr.Column(scale=2, min_width=240):
            types: list[Any] = [".yml", ".yaml", ".json", ".md", ".txt"]
            file = gr.File(label=t("recipe.file"), type="binary", file_types=types, height=150)
    return Start(host, wishes, buttons, more, source, opener, file, message)

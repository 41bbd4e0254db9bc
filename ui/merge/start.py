"""What a recipe starts from: a preset, or a merged model, a link or a file that holds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging import MergeError, Problem
from ui.host import Host
from ui.hub.account import account
from ui.hub.recipes import LONGEST_RECIPE, find_recipe, recipe_in
from ui.languages.translate import in_each_language, t
from ui.recipe.presets import presets
from ui.widgets import html
from ui.widgets.events import NETWORK


@dataclass
class Start:
    """The row of presets and the folded field below it."""

    host: Host
    buttons: dict[str, gr.Button]
    source: gr.Textbox
    open: gr.Button
    file: gr.File
    said: gr.HTML

    def wire(
        self, show: Callable[[str, Any], list[Any]], memory: gr.State, recipe: list[Any], quiet: Any
    ) -> None:
        """Let every start put its recipe into the page.

        Args:
            show: updates of `recipe` for a text and the form's memory
            memory: the form's
            recipe: the components that a recipe is shown in
            quiet: how events that need no line are wired
        """
        texts = {preset.key: preset.recipe for preset in presets(self.host.demo)}

        def opened(find: Callable[[], tuple[str, str]], remembered: Any) -> list[Any]:
            try:
                text, line = find()
            except MergeError as error:
                return [trouble(error.problems[0]), *(gr.skip() for _ in recipe)]
            return [line, *show(text, remembered)]

        def from_source(source: str, remembered: Any, oauth: gr.OAuthToken | None) -> list[Any]:
            def find() -> tuple[str, str]:
                text, name = find_recipe(source or "", account(self.host, oauth))
                return text, line_of(t("recipe.opened", name=name) if name else t("recipe.opened.file"))

            return opened(find, remembered)

        def from_file(content: bytes | None, remembered: Any) -> list[Any]:
            def find() -> tuple[str, str]:
                text = recipe_in((content or b"")[:LONGEST_RECIPE].decode(errors="replace"))
                if text is None:
                    raise MergeError(Problem("source", t("source.file"), t("source.file.fix")))
                return text, line_of(t("recipe.opened.file"))

            return opened(find, remembered)

        for key, button in self.buttons.items():
            button.click(lambda remembered, key=key: show(texts[key], remembered), memory, recipe, **quiet)
        gr.on(
            [self.open.click, self.source.submit],
            from_source,
            [self.source, memory],
            [self.said, *recipe],
            show_progress="hidden",
            **NETWORK,
        )
        self.file.upload(from_file, [self.file, memory], [self.said, *recipe], **quiet)


def build_start(host: Host) -> Start:
    """Make the row where the page is being built."""
    with gr.Row(elem_classes="alloy-presets"):
        gr.HTML(in_each_language(lambda: f"<span>{html.text(t('recipe.start'))}</span>"))
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
            said = gr.HTML()
        with gr.Column(scale=2, min_width=240):
            file = gr.File(
                label=t("recipe.file"),
                type="binary",
                file_types=[".yml", ".yaml", ".json", ".md", ".txt"],
                height=150,
            )
    return Start(host, buttons, source, opener, file, said)


def trouble(problem: Problem) -> str:
    """A problem in a line."""
    return f'<p class="alloy-trouble" role="alert">{html.sentences(problem)}</p>'


def line_of(words: str) -> str:
    return f'<p class="alloy-method" role="status">{html.text(words)}</p>'

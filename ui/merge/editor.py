"""The recipe on the page: a form beside its YAML. The YAML is what runs; the form only writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from ui.host import Host
from ui.hub.recipes import COPY, link_to
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import t
from ui.merge.experts import ExpertsPanel
from ui.merge.form import Form, FormMemory, build_form, needs_typing
from ui.recipe import mixture_state
from ui.recipe.form_state import FormState, NotShown, read, write
from ui.recipe.mixture_state import MixtureState
from ui.recipe.presets import family, presets
from ui.server.merge_service import MergeService
from ui.widgets.events import PRIVATE, QUIET, Given, Updates, unchanged
from ui.widgets.html import tag


class RecipeEditor:
    """The form and the YAML, made inside the page's Blocks.

    Attributes:
        yaml: the text
        form: its fields
        check: a button below the text, which `PlanPanel` wires
        beside: the column of the text, for what belongs below it
        outputs: what `show` may update
    """

    def __init__(self, host: Host, search: HubSearch) -> None:
        self.host = host
        self.search = search
        self.first_recipe = presets(host.demo)[0].recipe
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=340, elem_classes="alloy-form"):
                self.notice = gr.HTML(visible=False)
                self.rewrite = gr.Button(t("recipe.rewrite"), size="sm", visible=False)
                with gr.Column(elem_classes="alloy-fields") as self.fields:
                    self.form: Form = build_form(family(host.demo).models, host.allow_folders)
                self.experts = ExpertsPanel(host, family(host.demo).models)
            with gr.Column(scale=5, min_width=340) as self.beside:
                self.yaml = gr.Code(
                    language="yaml", label=t("recipe.yaml"), lines=14, max_lines=24, interactive=True,
                    elem_classes="alloy-yaml", buttons=["copy", "download"],
                )  # fmt: skip
                with gr.Row():
                    self.check = gr.Button(t("plan.button"), size="sm", min_width=120)
                    self.share = gr.Button(t("recipe.link"), size="sm", min_width=120)
                # Without a copy button inside: the label would belong to that.
                self.link = gr.Textbox(
                    label=t("recipe.linked"), info=t("recipe.linked.info"), visible=False, max_lines=1,
                    interactive=False,
                )  # fmt: skip
        around = [self.notice, self.rewrite, self.fields]
        self._form_outputs: list[Any] = [*around, *self.form.outputs, *self.experts.outputs]
        self.outputs: list[Any] = [self.yaml, *self._form_outputs]

    def wire(self, service: MergeService) -> None:
        """Add the events."""
        self._wire_yaml()
        self._wire_form()
        self.experts.wire(self.yaml, service)
        known = family(self.host.demo).models
        for dropdown in self.form.model_fields:
            search_as_you_type(dropdown, self.search, self.host, known, self.form.memory)
        for dropdown in self.experts.model_fields:
            search_as_you_type(dropdown, self.search, self.host, known, self.experts.shown)

    def _wire_yaml(self) -> None:
        self.share.click(self._link, self.yaml, self.link, **QUIET).then(
            None, self.link, None, js=COPY, **PRIVATE
        )
        # A link that is shown follows the recipe.
        self.yaml.change(self._linked, [self.yaml, self.link], self.link, trigger_mode="always_last", **QUIET)
        typed = [self.yaml, self.form.memory]
        self.yaml.input(self._yaml_typed, typed, self._form_outputs, trigger_mode="always_last", **QUIET)
        self.rewrite.click(self._rewrite, self.form.memory, self.outputs, **QUIET)

    def _wire_form(self) -> None:
        form, fields = self.form, self.form.inputs
        form.method.input(self._method_chosen, fields, self.outputs, **QUIET)
        form.typed.input(self._typing_switched, fields, self.outputs, **QUIET)
        form.add.click(self._row_added, fields, self.outputs, **QUIET)
        for index, row in enumerate(form.rows):
            row.remove.click(self._remover(index), fields, self.outputs, **QUIET)
        written = [form.memory, self.yaml]
        elsewhere = (form.method, form.typed, *form.text_fields)
        changed = [component.input for component in form.values if component not in elsewhere]
        gr.on(changed, self._field_changed, fields, written, trigger_mode="always_last", **QUIET)
        # The `input` event of Gradio's text fields reports typed characters, but not deleted and pasted ones; their
        # `change` event reports all, and also what the page itself wrote.
        for text in form.text_fields:
            text.change(self._text_watcher(text), fields, written, trigger_mode="always_last", **QUIET)

    # -- text to form ------------------------------------------------------------------------------

    def show(self, text: str, memory: FormMemory) -> Updates:
        """Form and YAML for a text that did not come from the form; `memory` is the form's."""
        try:
            if mixture_state.is_mixture(text):
                return self._experts_shown(mixture_state.read(text), text, memory)
            return self._shown(read(text), text)
        except NotShown as reason:
            return self._held(memory, text, str(reason))

    def opening(self, text: str) -> Updates:
        """Form and YAML for a page that opens; its empty fields get something that works if the form cannot show it."""
        start = read(self.first_recipe)
        shown = self.show(text, FormMemory(start))
        return {**self.form.show(start), **shown} if shown[self.form.memory].held else shown

    def _shown(self, state: FormState, text: str, **how: Any) -> Updates:
        hidden = gr.update(visible=False)
        notice = gr.update(value="", visible=False)
        around = {self.yaml: text, self.notice: notice, self.rewrite: hidden, **self._form_only()}
        return {**around, **self.form.show(state, **how)}

    def _form_only(self) -> Updates:
        """The form's fields, and not those of experts."""
        return {self.fields: gr.update(visible=True), **self.experts.hide()}

    def _experts_shown(self, state: MixtureState, text: str, memory: FormMemory) -> Updates:
        """The fields of experts in place of the form, which must not overwrite the text."""
        return {
            self.yaml: text,
            self.notice: gr.update(value="", visible=False),
            self.rewrite: gr.update(visible=False),
            self.fields: gr.update(visible=False),
            self.form.memory: replace(memory, held=True),
            **self.experts.show(state),
        }

    def _held(self, memory: FormMemory, text: str, reason: str) -> Updates:
        return {
            self.yaml: text,
            self.notice: gr.update(value=_notice(reason), visible=True),
            self.rewrite: gr.update(visible=True),
            self.form.memory: replace(memory, held=True),
            **self._form_only(),
        }

    def _yaml_typed(self, text: str, memory: FormMemory) -> Updates:
        shown = self.show(text, memory)
        del shown[self.yaml]  # the visitor types there
        return shown

    def _rewrite(self, memory: FormMemory) -> Updates:
        return self._shown(memory.state, write(memory.state))

    def _link(self, text: str, request: gr.Request) -> Any:
        """A link that holds the recipe, to the page as the visitor sees it."""
        return gr.update(value=link_to(self.host, text, request), visible=True)

    def _linked(self, text: str, link: str, request: gr.Request) -> Any:
        return self._link(text, request) if link else gr.skip()

    # -- form to text ------------------------------------------------------------------------------

    def _form_changed(self, values: Given, state: FormState) -> Updates:
        if values[self.form.memory].held:
            return unchanged()
        typed = bool(values[self.form.typed]) or needs_typing(state)
        return self._shown(state, write(state), typed=typed, values=values)

    def _field_changed(self, values: Given) -> Updates:
        memory: FormMemory = values[self.form.memory]
        if memory.held:
            return unchanged()
        state = self.form.collect(values)
        now = replace(memory, state=state, texts=self.form.texts(values))
        return {self.form.memory: now, self.yaml: write(state)}

    def _text_watcher(self, text: gr.Textbox) -> Callable[[Given], Updates]:
        def changed(values: Given) -> Updates:
            return self._field_changed(values) if self.form.was_typed(text, values) else unchanged()

        return changed

    def _method_chosen(self, values: Given) -> Updates:
        return self._form_changed(values, self.form.after_method(values))

    def _typing_switched(self, values: Given) -> Updates:
        state = self.form.after_typing_switch(values)
        if not values[self.form.typed] and needs_typing(state):
            gr.Info(t("recipe.typed.needed"))
        return self._form_changed(values, state)

    def _row_added(self, values: Given) -> Updates:
        return self._form_changed(values, self.form.with_row(values))

    def _remover(self, index: int) -> Callable[[Given], Updates]:
        def remove(values: Given) -> Updates:
            return self._form_changed(values, self.form.without_row(index, values))

        return remove


def _notice(reason: str) -> Markup:
    return tag.div(t("recipe.held", reason=reason), class_="alloy-held", role="status")

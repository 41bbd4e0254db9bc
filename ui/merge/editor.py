"""The recipe on the page: a form beside its YAML. The YAML is what runs; the form only writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from merging.licences import common_base
from ui.host import Host
from ui.hub.account import account
from ui.hub.recipes import COPY, link_to
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import in_each_language, t
from ui.merge.curve_editor import curves_picture, with_move
from ui.merge.depth_form import DepthForm
from ui.merge.experts import ExpertsForm
from ui.merge.form import FormMemory, RecipeForm, as_shown, build_form, needs_typing
from ui.merge.lora_form import LoraForm
from ui.merge.special_form import SpecialForm
from ui.merge.versions import MOST_TRIES, next_try
from ui.recipe.form_state import FormState, NotShown, OtherMethods, read, rewritten, write
from ui.recipe.presets import family, presets
from ui.server.merge_service import MergeService
from ui.widgets.events import PRIVATE, QUIET, Given, Updates, unchanged
from ui.widgets.html import status, tag
from ui.widgets.phone_fold import folded_on_phones


class RecipeEditor:
    """The form and the YAML, made inside the page's Blocks.

    Attributes:
        yaml: the text
        form: its fields
        experts: the fields of a mixture of experts
        specials: all fields that take the form's place
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
                    self.form: RecipeForm = build_form(family(host.demo).models, host.allow_folders)
                known = family(host.demo).models
                self.experts = ExpertsForm(host, known)
                others = LoraForm(known, family(host.demo).adapter), DepthForm(known)
                self.specials: tuple[SpecialForm[Any], ...] = (self.experts, *others)
            with gr.Column(scale=5, min_width=340) as self.beside:
                with gr.Row(elem_classes="alloy-undo"):
                    self.said = gr.HTML(visible=False)
                    self.undo = gr.Button(t("recipe.undo"), size="sm", visible=False, scale=0, min_width=80)
                with folded_on_phones(lambda: t("recipe.fold")):
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
        around = [self.notice, self.rewrite, self.fields, self.said, self.undo]
        # The version comes last: the browser sets the fields in this order, and sends events in between.
        numbers = [self.form.again, self.form.version]
        parts = [part for special in self.specials for part in special.outputs]
        self._form_outputs: list[Any] = [*around, *self.form.outputs, *parts, *numbers]
        self.outputs: list[Any] = [self.yaml, *self._form_outputs]
        self._begin()

    def _begin(self) -> None:
        """Build the first recipe into the form, so that the page is drawn with the form that it keeps.

        The text comes when the page has loaded: it is then that a plan is made.
        """
        for component, update in self.opening(self.first_recipe).items():
            if component is self.yaml:
                continue
            changes = update if isinstance(update, dict) else {"value": update}
            for name, value in changes.items():
                if name != "__type__":
                    setattr(component, name, value)
        self.form.curves.value = in_each_language(lambda: curves_picture(self.first_recipe))

    def wire(self, service: MergeService) -> None:
        """Add the events."""
        self._wire_yaml()
        self._wire_form()
        known = family(self.host.demo).models
        for dropdown in self.form.model_fields:
            search_as_you_type(dropdown, self.search, self.host, known, self.form.memory)
        for special in self.specials:
            special.wire(self.yaml, self.form, service)
            for dropdown in special.model_fields:
                search_as_you_type(dropdown, self.search, self.host, known, special.shown)

    def _wire_yaml(self) -> None:
        self.share.click(self._link, self.yaml, self.link, **QUIET).then(
            None, self.link, None, js=COPY, **PRIVATE
        )
        # A link that is shown follows the recipe.
        self.yaml.change(self._linked, [self.yaml, self.link], self.link, trigger_mode="always_last", **QUIET)
        typed = [self.yaml, self.form.memory]
        self.yaml.input(self._yaml_typed, typed, self._form_outputs, trigger_mode="always_last", **QUIET)
        self.rewrite.click(self._rewrite, self.form.memory, self.outputs, **QUIET)
        self.undo.click(self._undo, self.form.memory, self.outputs, **QUIET)

        drawn = self.form.curves
        self.yaml.change(curves_picture, self.yaml, drawn, trigger_mode="always_last", **QUIET)
        drawn.release(self._drawn, typed, self.outputs, trigger_mode="always_last", **QUIET)

    def _wire_form(self) -> None:
        form, fields = self.form, {*self.form.inputs, self.yaml}
        gr.on(
            [form.method.input, form.typed.input, form.again.change], self._form_changed, fields, self.outputs,
            trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        form.add.click(self._row_added, fields, self.outputs, **QUIET)
        for index, row in enumerate(form.rows):
            row.remove.click(self._remover(index), fields, self.outputs, **QUIET)
        written = [form.memory, self.yaml, self.said, self.undo, form.again, form.version]
        elsewhere = (form.method, form.typed, *form.text_fields)
        changed = [component.input for component in form.values if component not in elsewhere]
        gr.on(changed, self._field_changed, fields, written, trigger_mode="always_last", **QUIET)
        # The `input` event of Gradio's text fields reports typed characters, but not deleted and pasted ones; their
        # `change` event reports all, and also what the page itself wrote.
        for text in form.text_fields:
            text.change(self._text_watcher(text), fields, written, trigger_mode="always_last", **QUIET)

    # -- text to form ------------------------------------------------------------------------------

    def show(self, text: str, memory: FormMemory, said: str = "") -> Updates:
        """Form and YAML for a text that did not come from the form.

        Args:
            text: the recipe
            memory: the form's
            said: what was done, in a line with a button that undoes it; empty for what needs no word
        """
        text = as_shown(text)
        remembered = self._remembered(self._showing(text, memory), memory, text, said)
        assert remembered is not None  # made from no other version
        return remembered

    def _showing(self, text: str, memory: FormMemory) -> Updates:
        """The fields for a text: those of the form or special ones, or why there are none."""
        try:
            special, state = self._special(text)
            if special is None:
                return self._shown(read(text), text)
            return self._special_shown(special, state, text, memory)
        except NotShown as reason:
            return self._held(memory, text, str(reason))

    def opening(self, text: str, before: str = "", said: str = "") -> Updates:
        """Form and YAML for a page that opens; its empty fields get something that works if the form cannot show it.

        Args:
            text: the recipe
            before: the visitor's own, that this one takes the place of
            said: see `show`
        """
        start = read(self.first_recipe)
        shown = self.show(text, FormMemory(start, text=as_shown(before)), said)
        return {**self.form.show(start), **shown} if shown[self.form.memory].held else shown

    def _remembered(
        self, shown: Updates, memory: FormMemory, text: str, said: str, after: int | None = None
    ) -> Updates | None:
        """With what the next rewriting of the text has to know, and with the line about this one.

        Args:
            after: the version that this is made from; None: from none

        Returns:
            The updates; None if another text was written since.
        """
        version = memory.versions.next(after)
        if version is None:
            return None
        undo = memory.text if said and memory.text.strip() != text.strip() else ""
        now = replace(
            shown[self.form.memory], others=memory.others, text=text, undo=undo, version=version,
            versions=memory.versions,
        )  # fmt: skip
        return {
            **shown,
            self.form.memory: now,
            self.form.version: version,
            **self._said(said if undo else ""),
        }

    def _said(self, words: str) -> Updates:
        """The line about what was rewritten, with its button; none without words."""
        return {
            self.said: gr.update(value=status(words) if words else "", visible=bool(words)),
            self.undo: gr.update(visible=bool(words)),
        }

    def _shown(self, state: FormState, text: str, **how: Any) -> Updates:
        hidden = gr.update(visible=False)
        notice = gr.update(value="", visible=False)
        around = {self.yaml: text, self.notice: notice, self.rewrite: hidden, **self._form_only()}
        return {**around, **self.form.show(state, **how)}

    def _special(self, text: str) -> tuple[SpecialForm[Any] | None, Any]:
        """The fields for a text of a special kind, and what they would hold; None for the form.

        Raises:
            NotShown: see `SpecialForm.read`.
        """
        for special in self.specials:
            state = special.read(text)
            if state is not None:
                return special, state
        return None, None

    def _form_only(self) -> Updates:
        """The form's fields, and no special ones."""
        hidden = {part: update for special in self.specials for part, update in special.hide().items()}
        return {self.fields: gr.update(visible=True), **hidden}

    def _special_shown(self, special: SpecialForm[Any], state: Any, text: str, memory: FormMemory) -> Updates:
        """Special fields in place of the form, which must not overwrite the text."""
        return {
            self.yaml: text,
            self.notice: gr.update(value="", visible=False),
            self.rewrite: gr.update(visible=False),
            self.form.memory: replace(memory, held=True),
            **self._form_only(),
            self.fields: gr.update(visible=False),
            **special.show(state),
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
        text = as_shown(text)
        shown = self._remembered(self._showing(text, memory), memory, text, "", memory.version)
        if shown is None:
            return unchanged()
        del shown[self.yaml]  # the visitor types there
        return shown

    def _rewrite(self, memory: FormMemory) -> Updates:
        return self.show(write(memory.state), memory, t("undo.form"))

    def _undo(self, memory: FormMemory) -> Updates:
        return self.show(memory.undo, memory) if memory.undo else unchanged()

    def _drawn(self, text: str, memory: FormMemory, moved: gr.EventData) -> Updates:
        changed = with_move(text, moved)
        if changed is None:
            return unchanged()
        said = _lost(text, changed)
        changed = as_shown(changed)
        shown = self._remembered(self._showing(changed, memory), memory, changed, said, memory.version)
        return unchanged() if shown is None else shown

    def _link(self, text: str, request: gr.Request) -> Any:
        """A link that holds the recipe, to the page as the visitor sees it."""
        return gr.update(value=link_to(self.host, text, request), visible=True)

    def _linked(self, text: str, link: str, request: gr.Request) -> Any:
        return self._link(text, request) if link else gr.skip()

    # -- form to text ------------------------------------------------------------------------------

    def _late(self, values: Given) -> Updates | None:
        """The answer to an event whose fields do not show the recipe as it was last written or typed: to send them
        again. None for one whose fields do.
        """
        memory: FormMemory = values[self.form.memory]
        if memory.held:
            return unchanged()
        if self.form.is_current(values, values[self.yaml]):
            return None
        return self._asked_again(values)

    def _asked_again(self, values: Given) -> Updates:
        """Ask the browser to send the fields again; an answer that never arrived is given once more."""
        memory: FormMemory = values[self.form.memory]
        tries = next_try(values[self.form.again])
        if tries % MOST_TRIES:
            return {self.form.again: tries}
        # Of a text that was typed the answer is lost, or else the text that was written is.
        was_typed = values[self.form.version] == memory.version or not memory.text
        return {**self.show(values[self.yaml] if was_typed else memory.text, memory), self.form.again: tries}

    def _form_changed(self, values: Given, oauth: gr.OAuthToken | None) -> Updates:
        """Follow the fields, whichever of them changed.

        The browser sends some changes twice, and this is called for those again that came too early.
        """
        memory: FormMemory = values[self.form.memory]
        late = self._late(values)
        if late is not None:
            return late
        if values[self.form.method] != memory.state.method:
            return self._method_chosen(values, oauth)
        if bool(values[self.form.typed]) != memory.typed:
            return self._typing_switched(values)
        return self._field_changed(values)

    def _state_changed(
        self, values: Given, state: FormState, said: str = "", others: OtherMethods | None = None
    ) -> Updates:
        """Form and YAML for a state that the form is to have; `others` as `for_method` returns it."""
        memory: FormMemory = values[self.form.memory]
        typed = bool(values[self.form.typed]) or needs_typing(state)
        before = values[self.yaml]
        text = as_shown(rewritten(before, state))
        now = replace(memory, text=as_shown(before), others=others or memory.others)
        shown = self._shown(state, text, typed=typed, values=values)
        written = self._remembered(shown, now, text, said or _lost(before, text), memory.version)
        return self._asked_again(values) if written is None else written

    def _field_changed(self, values: Given) -> Updates:
        memory: FormMemory = values[self.form.memory]
        late = self._late(values)
        if late is not None:
            return late
        if (values[self.form.method], bool(values[self.form.typed])) != (memory.state.method, memory.typed):
            return self._asked_again(values)  # these are on their way, and show other fields
        state, before = self.form.collect(values), values[self.yaml]
        text = as_shown(rewritten(before, state))
        if text.strip() == memory.text.strip():
            return unchanged()  # leaving a field counts as a change, too
        now = replace(memory, state=state, texts=self.form.texts(values), text=as_shown(before))
        shown: Updates = {self.form.memory: now, self.yaml: text}
        written = self._remembered(shown, now, text, _lost(before, text), memory.version)
        return self._asked_again(values) if written is None else written

    def _text_watcher(self, text: gr.Textbox) -> Callable[[Given], Updates]:
        def changed(values: Given) -> Updates:
            return self._field_changed(values) if self.form.was_typed(text, values) else unchanged()

        return changed

    def _method_chosen(self, values: Given, oauth: gr.OAuthToken | None) -> Updates:
        token = account(self.host, oauth).for_hub
        state, others = self.form.after_method(values, lambda names: common_base(names, token))
        said = t("undo.method", method=state.merge_method.title)
        if others.spare:
            names = [model.name for model in others.spare]
            said = t("undo.method.spare", method=state.merge_method.title, names=names)
        return self._state_changed(values, state, said, others)

    def _typing_switched(self, values: Given) -> Updates:
        state = self.form.after_typing_switch(values)
        if not values[self.form.typed] and needs_typing(state):
            gr.Info(t("recipe.typed.needed"))
        return self._state_changed(values, state)

    def _row_added(self, values: Given) -> Updates:
        late = self._late(values)
        return self._state_changed(values, self.form.with_row(values)) if late is None else late

    def _remover(self, index: int) -> Callable[[Given], Updates]:
        def remove(values: Given) -> Updates:
            late = self._late(values)
            if late is not None:
                return late
            name = str(values[self.form.rows[index].model] or "")
            said = t("undo.removed", name=name) if name else ""
            return self._state_changed(values, self.form.without_row(index, values), said)

        return remove


def _lost(before: str, after: str) -> str:
    """That comments were lost, in words, or nothing."""
    return t("undo.comments") if len(_comments(after)) < len(_comments(before)) else ""


def _comments(text: str) -> Sequence[str]:
    return re.findall(r"(?:^|\s)#.*", text)


def _notice(reason: str) -> Markup:
    return tag.div(t("recipe.held", reason=reason), class_="alloy-held", role="status")

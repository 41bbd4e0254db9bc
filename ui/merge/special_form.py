"""Fields for a kind of recipe that the form cannot show well: they take its place, and write the YAML as it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, TypeVar

import gradio as gr

from ui.merge.form import FormMemory, RecipeForm
from ui.merge.versions import MOST_TRIES, next_try
from ui.server.merge_service import MergeService
from ui.widgets.events import QUIET, Given, Updates, unchanged

State = TypeVar("State")


class SpecialForm(ABC, Generic[State]):
    """The fields of one kind of recipe, made inside the page's Blocks.

    Attributes:
        column: around all of them
        shown: a state with what they hold, as last shown or collected; None while they are hidden
    """

    column: gr.Column
    shown: gr.State

    @property
    @abstractmethod
    def values(self) -> list[Any]:
        """Every field whose value counts."""

    @property
    @abstractmethod
    def model_fields(self) -> list[gr.Dropdown]:
        """Those that name models."""

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `hide` may update."""
        return [self.column, self.shown, *self.values]

    @abstractmethod
    def read(self, text: str) -> State | None:
        """What the fields would hold for a text; None if it is of another kind.

        Raises:
            NotShown: it is of this kind, and the fields cannot show it.
        """

    @abstractmethod
    def show(self, state: State) -> Updates:
        """Make the fields hold a state, and show them."""

    @abstractmethod
    def collect(self, values: Given) -> State:
        """What the fields hold."""

    @abstractmethod
    def rewritten(self, text: str, state: State) -> str:
        """A text that says a state, by as few edits as possible."""

    def hide(self) -> Updates:
        """Show them no longer."""
        return {self.column: gr.update(visible=False), self.shown: None}

    def wire(self, yaml: gr.Code, form: RecipeForm, service: MergeService) -> None:
        """Add the events; the fields write into this text, which the form's memory knows."""
        self.yaml, self.form = yaml, form
        fields = {self.shown, yaml, form.memory, form.again, form.version, *self.values}
        written = [*self.outputs, yaml, form.memory, form.again, form.version]
        # What the server puts into the fields is drawn one by one: as a `change`, each would send what the others held
        # before. The `input` event of text fields does not report all that is deleted or pasted.
        asked = [
            *(field.change if isinstance(field, gr.Textbox) else field.input for field in self.values),
            form.again.change,
        ]
        gr.on(asked, self._changed, fields, written, trigger_mode="always_last", **QUIET)

    def same(self, one: State, other: State) -> bool:
        """Whether two states make the same recipe."""
        return one == other

    def _changed(self, values: Given) -> Updates:
        """Write what was chosen; what `show` put into the fields is there already, and hidden fields hold nothing."""
        before: State | None = values[self.shown]
        if before is None:
            return unchanged()
        state = self.collect(values)
        if self.same(state, before):
            return unchanged()
        memory: FormMemory = values[self.form.memory]
        is_current = self.form.is_current(values, values[self.yaml])
        version = memory.versions.next(memory.version) if is_current else None
        if version is None:
            return self._asked_again(values, before)
        text = self.rewritten(values[self.yaml], state)
        return {
            self.shown: state,
            self.yaml: text,
            self.form.memory: replace(memory, text=text.strip(), version=version),
            self.form.version: version,
        }

    def _asked_again(self, values: Given, before: State) -> Updates:
        """Ask the browser to send the fields again; an answer that never arrived is given once more."""
        tries = next_try(values[self.form.again])
        version = values[self.form.memory].version
        lost = {**self.show(before), self.form.version: version} if tries % MOST_TRIES == 0 else {}
        return {**lost, self.form.again: tries}

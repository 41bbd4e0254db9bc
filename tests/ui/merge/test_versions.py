"""Fields that are out of date change nothing: what a visitor did last is what the recipe says in the end."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr
import pytest

from ui.host import Host
from ui.hub.search import HubSearch
from ui.merge import versions
from ui.merge.editor import RecipeEditor
from ui.merge.form import FormMemory
from ui.merge.versions import MOST_TRIES, Versions
from ui.recipe.form_state import read
from ui.recipe.mixture_state import ExpertEntry, MixtureState
from ui.recipe.mixture_state import write as write_mixture

TIES = """\
merge_method: ties
base_model: a/base
models:
- model: a/one
  parameters: {weight: 1.0, density: 0.5}
"""


class Browser:
    """The editor with what a browser and its session hold. Answers are shown when the test says so."""

    def __init__(self, text: str) -> None:
        with gr.Blocks():
            self.editor = RecipeEditor(Host.from_environment({}), HubSearch())
        form, experts = self.editor.form, self.editor.experts
        self.form, self.experts = form, experts
        experts.yaml, experts.form = self.editor.yaml, form
        browsers = [*form.values, form.again, form.version, *experts.values]
        self.holds: dict[Any, Any] = {component: component.value for component in browsers}
        self.holds[self.editor.yaml] = ""
        self.session: dict[Any, Any] = {experts.shown: None}
        first = FormMemory(read(self.editor.first_recipe))
        self.show(self.answered(self.editor.show(text, first)))

    def sent(self) -> dict[Any, Any]:
        """What an event takes along now; the session is read when the server begins with it."""
        return copy.copy(self.holds)

    def answered(self, updates: dict[Any, Any]) -> dict[Any, Any]:
        """An answer whose part for the session is there at once."""
        for state in (self.form.memory, self.experts.shown):
            if state in updates:
                self.session[state] = updates[state]
        return updates

    def show(self, updates: dict[Any, Any]) -> None:
        """The answer, in the browser."""
        for component, update in updates.items():
            if component not in self.holds:
                continue
            if not isinstance(update, dict):
                self.holds[component] = update
            elif "value" in update:
                self.holds[component] = update["value"]

    def given(self, sent: dict[Any, Any]) -> dict[Any, Any]:
        return {**sent, **self.session}

    def form_event(self, sent: dict[Any, Any]) -> dict[Any, Any]:
        return self.answered(self.editor._form_changed(self.given(sent), None))

    def field_event(self, sent: dict[Any, Any]) -> dict[Any, Any]:
        return self.answered(self.editor._field_changed(self.given(sent)))

    def settled(self, updates: dict[Any, Any]) -> None:
        """Show an answer, and send the fields again as long as that is what the server asks for."""
        self.show(updates)
        for _ in range(2 * MOST_TRIES):
            if self.form.again not in updates:
                return
            updates = self.form_event(self.sent())
            self.show(updates)
        raise AssertionError("the server asks for the fields for ever")

    @property
    def text(self) -> str:
        return str(self.holds[self.editor.yaml])


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "SECONDS_BETWEEN", 0)


@pytest.fixture
def page() -> Browser:
    return Browser(TIES)


def names(page: Browser) -> list[str]:
    return [model.name for model in read(page.text).models]


def test_a_choice_that_is_sent_twice_is_followed_once(page: Browser) -> None:
    page.holds[page.form.method] = "slerp"
    first, second = page.sent(), page.sent()

    one = page.form_event(first)
    other = page.form_event(second)
    page.settled(one)
    page.settled(other)

    assert read(page.text).method == "slerp"
    assert names(page) == ["a/base", "a/one"]
    undone = page.session[page.form.memory].undo
    assert undone.strip() == TIES.strip()


def test_two_events_that_are_answered_side_by_side_do_not_undo_each_other(page: Browser) -> None:
    page.holds[page.form.method] = "slerp"
    chosen = page.given(page.sent())
    page.holds[page.form.method] = "ties"
    page.holds[page.form.rows[0].fields["weight"].slider] = 0.25
    moved = page.given(page.sent())  # both begin with the same session
    page.holds[page.form.method] = "slerp"

    one = page.answered(page.editor._form_changed(chosen, None))
    other = page.answered(page.editor._field_changed(moved))
    page.show(other)  # the answers may come in another order
    page.settled(one)
    page.settled(page.form_event(page.sent()))

    assert read(page.text).method == "slerp"
    assert names(page) == ["a/base", "a/one"]
    assert page.session[page.form.memory].state == read(page.text)


def test_a_field_of_the_form_before_changes_nothing_and_its_new_value_is_not_lost(page: Browser) -> None:
    page.holds[page.form.method] = "slerp"
    answer = page.form_event(page.sent())
    page.holds[page.form.dtype] = "float32"  # before the answer is shown
    late = page.field_event(page.sent())
    assert page.editor.yaml not in late
    page.show(answer)
    page.holds[page.form.dtype] = "float32"  # the visitor's; an answer leaves alone what it does not change

    page.settled(late)

    state = read(page.text)
    assert (state.method, state.dtype) == ("slerp", "float32")
    assert names(page) == ["a/base", "a/one"]


def test_a_field_does_not_write_over_a_text_that_is_being_typed(page: Browser) -> None:
    typed = TIES.replace("a/one", "a/typed")
    page.holds[page.editor.yaml] = typed
    late = page.field_event(page.sent())  # it overtakes the event of the text
    shown = page.answered(page.editor._yaml_typed(typed, page.session[page.form.memory]))
    page.show(shown)

    page.settled(late)

    assert page.text == typed
    assert page.holds[page.form.rows[0].model] == "a/typed"


def test_leaving_a_field_changes_nothing_and_keeps_the_button_that_undoes(page: Browser) -> None:
    page.holds[page.form.method] = "slerp"
    page.settled(page.form_event(page.sent()))

    left = page.field_event(page.sent())

    assert page.editor.undo not in left
    assert page.editor.yaml not in left


def test_an_answer_that_never_arrives_is_given_again(page: Browser) -> None:
    page.holds[page.form.method] = "slerp"
    page.form_event(page.sent())  # lost on the way
    page.holds[page.form.method] = "ties"
    page.holds[page.form.rows[0].fields["weight"].slider] = 0.25

    page.settled(page.field_event(page.sent()))

    assert read(page.text).method == "slerp"
    assert page.session[page.form.memory].state == read(page.text)
    assert page.holds[page.form.version] == page.session[page.form.memory].version


def test_a_prompt_of_the_experts_before_changes_nothing() -> None:
    experts = (ExpertEntry("a/one", "x"), ExpertEntry("a/two", "y"))
    page = Browser(write_mixture(MixtureState("a/base", "router", 2, experts, {})))
    before = page.text
    late = page.sent() | {page.form.version: -1, page.experts.rows[0].prompts: "of another recipe"}

    answer = page.experts._changed(page.given(late))

    assert page.editor.yaml not in answer
    assert page.form.again in answer
    page.holds[page.experts.rows[0].prompts] = "typed"
    page.show(page.answered(page.experts._changed(page.given(page.sent()))))
    assert page.text.replace("typed", "x").strip() == before.strip()


def test_versions_are_given_out_once() -> None:
    numbers = Versions()
    assert numbers.next() == 1
    assert numbers.next(after=1) == 2
    assert numbers.next(after=1) is None
    assert numbers.next() == 3

"""The fields of a mixture of experts on the page, without a browser."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from merging.experts.routing import Pair, RoutedPrompt, Routing
from ui.host import Host
from ui.merge.experts import ExpertsForm, routing_card
from ui.merge.form import FormMemory, build_form
from ui.recipe.form_state import FormState
from ui.recipe.mixture_state import MAX_EXPERTS, ExpertEntry, MixtureState, read, write

STATE = MixtureState(
    "a/base",
    "router",
    1,
    (ExpertEntry("a/one", "x\ny", {"noise_scale": 1}), ExpertEntry("a/two", "z")),
    {"seed": 3},
)


class Panel:
    """The panel with its fields' values, as the browser would hold them."""

    def __init__(self, state: MixtureState) -> None:
        with gr.Blocks():
            self.panel = ExpertsForm(Host.from_environment({"ALLOY_DEMO": "1"}), ("a/known",))
            self.panel.yaml, self.panel.form = gr.Code(), build_form(["a/known"], allow_folders=True)
        self.values: dict[Any, Any] = {component: component.value for component in self.panel.values}
        form, text = self.panel.form, write(state)
        memory = FormMemory(FormState("linear"), text=text)
        self.values |= {self.panel.yaml: text, form.memory: memory, form.version: 0, form.again: 0}
        self.apply(self.panel.show(state))

    def apply(self, updates: dict[Any, Any]) -> None:
        for component, update in updates.items():
            if isinstance(update, dict):
                if "value" in update:
                    self.values[component] = update["value"]
            else:
                self.values[component] = update


@pytest.fixture
def page() -> Panel:
    return Panel(STATE)


def test_what_is_shown_is_what_is_collected(page: Panel) -> None:
    assert set(page.panel.show(STATE)) == set(page.panel.outputs)
    assert page.panel.collect(page.values) == STATE
    assert page.panel.collect(page.values).experts[0].extra == {"noise_scale": 1}


def test_what_the_page_itself_wrote_changes_nothing(page: Panel) -> None:
    assert page.panel.yaml not in page.panel._changed(page.values)


def test_what_is_typed_is_written(page: Panel) -> None:
    row = page.panel.rows[1]
    page.values[row.prompts] = "z\nanother"

    updates = page.panel._changed(page.values)

    written = read(updates[page.panel.yaml])
    assert written.experts[1].prompts == "z\nanother"
    assert written.extra == {"seed": 3}


def test_a_hidden_panel_writes_nothing(page: Panel) -> None:
    page.apply(page.panel.hide())

    assert page.panel.yaml not in page.panel._changed(page.values)


def test_rows_are_added_up_to_the_last(page: Panel) -> None:
    shown = []
    for _ in range(MAX_EXPERTS - 2):
        updates = page.panel._added(page.values)
        shown.append(sum(updates[row.group]["visible"] for row in page.panel.rows))
        page.values[page.panel.rows[shown[-1] - 1].model] = "a/more"

    assert shown == [*range(3, MAX_EXPERTS + 1)]
    assert updates[page.panel.add]["visible"] is False


def test_the_table_shows_each_prompt_and_what_is_wrong() -> None:
    prompts = (
        RoutedPrompt("<b>first", 0, (0.75, 0.25), (0.9, 0.1)),
        RoutedPrompt("second", 1, (0.6, 0.4), (0.7, 0.3)),
        RoutedPrompt("tried", None, (0.5, 0.5), (0.5, 0.5)),
    )
    routing = Routing(("a/one", "b/two"), prompts, (Pair(0, 1, 0.999, 3),), 4)

    text = str(routing_card(routing))

    assert "&lt;b&gt;first" in text
    assert "0.75" in text
    assert text.count("alloy-heed") >= 1
    assert "0.9990" in text
    assert "1 of 2 prompts" in text

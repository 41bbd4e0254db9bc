"""Fields in place of the form: what they are shown is what they say, and what they say is what is written."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from tests.ui.html import Tags
from ui.languages.translate import speaking
from ui.merge.depth_form import DepthForm
from ui.merge.form import FormMemory, build_form
from ui.merge.lora_form import LoraForm
from ui.merge.special_form import SpecialForm
from ui.recipe.form_state import FormState
from ui.recipe.presets import presets


def recipe(key: str) -> str:
    return next(preset.recipe for preset in presets(True) if preset.key == key)


class Shown:
    """Special fields with their values, as the browser would hold them."""

    def __init__(self, make: type[Any], text: str) -> None:
        with gr.Blocks():
            more = ("a/lora",) if make is LoraForm else ()
            self.form: SpecialForm[Any] = make(("a/known",), *more)
            self.form.yaml, self.form.form = gr.Code(), build_form(["a/known"], allow_folders=True)
        form, memory = self.form.form, FormMemory(FormState("linear"), text=text.strip())
        self.values: dict[Any, Any] = {
            self.form.yaml: text, form.memory: memory, form.version: 0, form.again: 0
        }  # fmt: skip
        self.apply(self.form.show(self.form.read(text)))

    def apply(self, updates: dict[Any, Any]) -> None:
        for component, update in updates.items():
            self.values[component] = update.get("value") if isinstance(update, dict) else update

    def change(self, field: Any, value: object) -> None:
        self.values[field] = value
        with speaking("en"):
            updates = self.form._changed(self.values)
        self.apply(updates)


@pytest.mark.parametrize(("make", "key"), [(LoraForm, "lora"), (DepthForm, "depth")])
def test_what_is_shown_is_what_is_collected_and_nothing_is_written_for_it(make: Any, key: str) -> None:
    shown = Shown(make, recipe(key))

    assert set(shown.form.show(shown.form.read(recipe(key)))) == set(shown.form.outputs)
    assert shown.form.collect(shown.values) == shown.form.read(recipe(key))
    assert shown.form.yaml not in shown.form._changed(shown.values)
    shown.apply(shown.form.hide())
    assert shown.form.yaml not in shown.form._changed(shown.values)


def test_a_lora_has_a_strength_of_its_own() -> None:
    shown = Shown(LoraForm, recipe("lora"))

    shown.change(shown.form.values[-1], 0.5)

    assert "scale: 0.5" in shown.values[shown.form.yaml]
    shown.change(shown.form.values[-1], 1)
    assert "+alloy/SmolLM2-135M-Pirate-LoRA" in shown.values[shown.form.yaml]


def test_layers_are_chosen_by_two_sliders_and_drawn() -> None:
    shown = Shown(DepthForm, recipe("depth"))
    form: Any = shown.form

    shown.change(form.last, 10)

    assert "layer_range: [20, 30]" in shown.values[form.yaml]
    picture = Tags(shown.values[form.stairs])
    assert picture.names.count("rect") == 33
    assert "From 30 to 33 layers: 3 layers are there twice." in picture.text
    shown.change(form.first, 20)
    assert "30 layers, each of them once" in Tags(shown.values[form.stairs]).text
    shown.change(form.first, 19)
    assert "1 layer is left out" in Tags(shown.values[form.stairs]).text

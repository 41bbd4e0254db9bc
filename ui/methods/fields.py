"""The fields that set a method's parameters for its demo."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from merging import MergeMethod, Parameter
from ui.languages.translate import t
from ui.methods.demo import models_of, start
from ui.methods.drawing import name_of
from ui.widgets.events import Given, Updates

MAX_SLIDERS, MAX_SWITCHES, MAX_MENUS = 14, 4, 2


class DemoFields:
    """A fixed number of fields, as many of them shown as a method has parameters; made inside the page's Blocks.

    Attributes:
        outputs: what `show` updates
    """

    def __init__(self) -> None:
        label = t("methods.value")
        with gr.Row(elem_classes="alloy-sliders"):
            self.sliders = [
                gr.Slider(0, 1, visible=False, min_width=150, label=label) for _ in range(MAX_SLIDERS)
            ]
            self.switches = [gr.Checkbox(visible=False, label=label) for _ in range(MAX_SWITCHES)]
            self.menus = [gr.Dropdown([], visible=False, label=label) for _ in range(MAX_MENUS)]
        self.outputs: list[Component] = [*self.sliders, *self.switches, *self.menus]

    def parameters(self, method: MergeMethod) -> dict[Component, tuple[Parameter, str]]:
        """By field, the parameter that it sets and the model that this is for; "" is for all models."""
        found = [
            (parameter, model)
            for parameter in method.parameters
            if start(parameter) is not None
            for model in (models_of(method) if parameter.per_model else ("",))
        ]
        numbers = [one for one in found if one[0].kind in ("number", "integer") and one[0].low is not None]
        switches = [one for one in found if one[0].kind == "bool"]
        menus = [one for one in found if one[0].kind == "choice"]
        fields: dict[Component, tuple[Parameter, str]] = {}
        fields |= zip(self.sliders, numbers, strict=False)
        fields |= zip(self.switches, switches, strict=False)
        fields |= zip(self.menus, menus, strict=False)
        return fields

    def show(self, method: MergeMethod) -> Updates:
        """The fields that a method needs, each at its first value."""
        updates: Updates = {field: gr.update(visible=False) for field in self.outputs}
        for field, (parameter, model) in self.parameters(method).items():
            updates[field] = gr.update(
                visible=True, value=start(parameter), label=name_of(parameter.name, model), **_range(parameter)
            )  # fmt: skip
        return updates

    def values(self, method: MergeMethod, given: Given) -> dict[tuple[str, str], Any]:
        """What the fields say, by parameter and model; values that the method does not take are left out."""
        return {
            (parameter.name, model): given[field]
            for field, (parameter, model) in self.parameters(method).items()
            if given[field] is not None and parameter.accepts(given[field])
        }


def _range(parameter: Parameter) -> dict[str, Any]:
    match parameter.kind:
        case "bool":
            return {}
        case "choice":
            return {"choices": list(parameter.choices)}
        case _:
            return {"minimum": parameter.low, "maximum": parameter.high, "step": parameter.step}

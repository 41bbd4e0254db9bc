"""The form's fields: what they are shown is what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
import yaml

from merging import METHODS
from ui.merge.form import FormMemory, RecipeForm, build_form, needs_typing
from ui.recipe.form_state import FormState, ModelEntry, for_method, read, write
from ui.recipe.mixture_state import is_mixture
from ui.recipe.presets import presets


class Page:
    """The form with its fields' values, as the browser would hold them."""

    def __init__(self) -> None:
        with gr.Blocks():
            self.form: RecipeForm = build_form(["a/known"], allow_folders=True)
        self.memory = FormMemory(FormState("linear"))
        self.fields: dict[Any, dict[str, Any]] = {c: {"value": c.value} for c in self.form.values}

    def show(self, state: FormState, typed: bool | None = None) -> None:
        updates = self.form.show(state, typed=typed)
        assert set(updates) == set(self.form.outputs)
        self.memory = updates[self.form.memory]
        for component in self.form.values:
            update = updates[component]
            field = self.fields[component]
            if isinstance(update, dict) and update.get("__type__") == "update":
                field.update({key: value for key, value in update.items() if key != "__type__"})
            else:
                field["value"] = update

    @property
    def values(self) -> dict[Any, Any]:
        values = {component: field["value"] for component, field in self.fields.items()}
        return {self.form.memory: self.memory, **values}

    def set(self, component: Any, value: object) -> None:
        self.fields[component]["value"] = value

    def visible(self, component: Any) -> bool:
        return bool(self.fields[component].get("visible", True))

    def yaml(self) -> dict[str, Any]:
        return dict(yaml.safe_load(write(self.form.collect(self.values))))


@pytest.fixture
def page() -> Iterator[Page]:
    yield Page()


@pytest.mark.parametrize(
    "preset",
    [p for p in presets(True) if "slices" not in p.recipe and not is_mixture(p.recipe)],
    ids=lambda p: str(p.key),
)
def test_a_recipe_survives_the_form(page: Page, preset: Any) -> None:
    page.show(read(preset.recipe))

    assert page.yaml() == yaml.safe_load(preset.recipe)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("typed", [False, True])
def test_every_parameter_has_a_field_that_writes_it(page: Page, name: str, typed: bool) -> None:
    method = METHODS[name]
    state, _ = for_method(
        FormState("linear", (ModelEntry("a/a"), ModelEntry("b/b"))), method, lambda _: "c/c"
    )
    page.show(state, typed=typed)
    wanted: dict[str, Any] = {}
    for parameter in method.parameters:
        fields = page.form.rows[0].fields if parameter.per_model else None
        kind = "number" if parameter.kind == "integer" else parameter.kind
        field: Any = fields[parameter.name] if fields else page.form.fields[parameter.name, kind]
        shown = [part for part in field.components if page.visible(part)]
        assert shown, parameter.name
        if parameter.kind == "bool":
            value: Any = not parameter.default
        elif parameter.kind == "choice":
            value = parameter.choices[-1]
        else:
            value = parameter.low if parameter.low != parameter.default else parameter.high
        page.set(shown[0], str(value) if isinstance(shown[0], gr.Textbox) else value)
        wanted[parameter.name] = value

    recipe = page.yaml()

    said = {**recipe.get("parameters", {}), **recipe["models"][0].get("parameters", {})}
    assert said == wanted


def test_a_default_is_not_written(page: Page) -> None:
    page.show(read("merge_method: ties\nbase_model: a/b\nmodels: [{model: a/c, parameters: {weight: 1.0}}]"))

    assert "parameters" not in page.yaml()
    assert page.yaml()["models"] == [{"model": "a/c", "parameters": {"weight": 1.0}}]


def test_gradients_are_typed_by_tensor(page: Page) -> None:
    page.show(
        read(
            "merge_method: slerp\nbase_model: a/a\nmodels: [{model: a/a}, {model: b/b}]\nparameters: {t: 0.5}"
        ),
        typed=True,
    )
    attention, mlp = page.form.fields["t", "number"].components[2:]
    page.set(attention, "[0, 0.5, 0.3, 0.7, 1]")
    page.set(mlp, "[1, 0.5, 0.7, 0.3, 0]")

    assert page.yaml()["parameters"]["t"] == [
        {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
        {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
        {"value": 0.5},
    ]


def test_removing_a_middle_row_keeps_the_others(page: Page) -> None:
    models = ", ".join(f"{{model: a/{i}, parameters: {{weight: 0.{i}}}}}" for i in (1, 2, 3))
    page.show(read(f"merge_method: linear\nmodels: [{models}]"))

    page.show(page.form.without_row(1, page.values))

    assert page.yaml()["models"] == [
        {"model": "a/1", "parameters": {"weight": 0.1}},
        {"model": "a/3", "parameters": {"weight": 0.3}},
    ]


def test_what_a_slider_cannot_show_is_typed() -> None:
    def state(weight: object) -> FormState:
        return FormState("linear", (ModelEntry("a/a", {"weight": weight}),))

    assert not needs_typing(state(0.5))
    assert needs_typing(state([0, 1]))
    assert needs_typing(state(-1.0))


def test_the_switch_to_typing_carries_the_sliders_values(page: Page) -> None:
    page.show(read("merge_method: linear\nmodels: [{model: a/a, parameters: {weight: 0.3}}]"))
    page.set(page.form.typed, True)

    state = page.form.after_typing_switch(page.values)

    assert state.models[0].settings == {"weight": 0.3}


def test_fields_that_are_right_already_are_left_alone(page: Page) -> None:
    state = read("merge_method: linear\nmodels: [{model: a/a, parameters: {weight: 0.3}}]")
    page.show(state)

    updates = page.form.show(state, typed=False, values=page.values)

    fields = [update for component, update in updates.items() if component in page.form.values]
    assert not [update for update in fields if not isinstance(update, dict) or "value" in update]


def test_a_row_counts_as_soon_as_it_names_a_model(page: Page) -> None:
    page.show(read("merge_method: linear\nmodels: [{model: a/a, parameters: {weight: 0.5}}]"))
    page.set(page.form.rows[2].model, "c/c")  # filled before the page has noted that the row is visible

    assert [entry["model"] for entry in page.yaml()["models"]] == ["a/a", "c/c"]


def test_a_chosen_method_counts_at_once(page: Page) -> None:
    page.show(read("merge_method: ties\nbase_model: a/b\nmodels: [{model: a/c, parameters: {weight: 1.0}}]"))
    page.set(page.form.method, "linear")

    assert page.yaml()["merge_method"] == "linear"


@pytest.mark.parametrize("name", METHODS)
def test_models_that_differ_are_named_by_what_they_are_for(page: Page, name: str) -> None:
    """Models are numbered only where the method takes them alike: none of them is the base, or made from it."""
    method = METHODS[name]
    models = (ModelEntry("a/a"), ModelEntry("b/b"))
    page.show(for_method(FormState("linear", models), method, lambda _: "c/c")[0])

    labels = [page.fields[row.model]["label"] for row in page.form.rows[:2]]

    named = [label for label in labels if label not in ("Model 1", "Model 2")]
    assert bool(named) == (method.base in ("subtracted", "first") or name == "passthrough")

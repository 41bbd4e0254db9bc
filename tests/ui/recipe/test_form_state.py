"""Form and YAML: what one says, the other says."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from examples.models import ADAPTER_NAMES, MODELS, OWNER
from merging import METHODS, read_recipe
from ui.recipe.form_state import (
    FormState,
    ModelEntry,
    NotShown,
    by_tensor,
    field_setting,
    field_text,
    for_method,
    read,
    split_by_tensor,
    write,
)
from ui.recipe.presets import presets

GRADIENT_SLERP = """
merge_method: slerp
base_model: a/first
models:
  - model: b/second
  - model: a/first
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
"""


def test_a_slerp_with_gradients_is_shown_and_written_back() -> None:
    state = read(GRADIENT_SLERP)

    assert [model.name for model in state.models] == ["a/first", "b/second"]  # the base comes first
    rest, attention, mlp = split_by_tensor(state.settings["t"])
    assert (rest, attention, mlp) == (0.5, [0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0])
    assert read_recipe(write(state)).parameters == read_recipe(GRADIENT_SLERP).parameters
    assert read(write(state)) == state


@pytest.mark.parametrize("demo", [True, False])
def test_presets_are_recipes_and_all_but_slices_are_shown(demo: bool) -> None:
    for preset in presets(demo):
        read_recipe(preset.recipe)
        if preset.key in ("depth", "silent_depth", "raw"):
            with pytest.raises(NotShown, match="slices"):
                read(preset.recipe)
        elif preset.key == "experts":  # it has fields of its own
            with pytest.raises(NotShown, match="method"):
                read(preset.recipe)
        else:
            assert yaml.safe_load(write(read(preset.recipe))) == yaml.safe_load(preset.recipe)


def test_a_transplant_is_shown_and_kept() -> None:
    text = """
merge_method: linear
models:
  - model: a/one
    parameters: {weight: 1}
  - model: a/two
    parameters: {weight: 2}
tokenizer:
  source: a/donor
  approximate: nearest
  k: 8
  pad_to_multiple_of: 64
  tokens: {"<pad>": {source: {kind: zero}}}
"""
    assert yaml.safe_load(write(read(text))) == yaml.safe_load(text)
    assert read_recipe(write(read(text))).tokenizer == read_recipe(text).tokenizer


def test_what_the_form_does_not_show_is_kept() -> None:
    text = """
merge_method: ties
base_model: a/base
models:
  - model: a/one
    parameters: {weight: 1, density: [1, 0.5]}
parameters: {int8_mask: true, normalize: false}
tokenizer_source: base
out_dtype: float16
"""
    state = read(text)

    assert state.extra == {"tokenizer_source": "base", "out_dtype": "float16"}
    assert yaml.safe_load(write(state)) == yaml.safe_load(text)


def test_a_value_for_all_models_becomes_each_models_own() -> None:
    state = read(
        "merge_method: linear\nmodels: [{model: a/a}, {model: b/b, parameters: {weight: 2}}]\nparameters: {weight: 1}"
    )

    assert [model.settings for model in state.models] == [{"weight": 1}, {"weight": 2}]
    assert state.settings == {}


def test_an_unlisted_parameterless_base_is_not_a_row() -> None:
    state = read(
        "merge_method: task_arithmetic\nbase_model: a/base\n"
        "models: [{model: a/base}, {model: a/x, parameters: {weight: 1}}]"
    )

    assert state.names() == ("a/x", "a/base")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("merge_method: [", "YAML"),
        ("just words", "not a recipe"),
        ("merge_method: tise\nmodels: []", "does not know this merge method"),
        ("merge_method: linear\nslices: []", "slices"),
        ("merge_method: linear\nmodels: [{model: a/b, layers: 3}]", "fields"),
        ("merge_method: linear\nmodels: [{model: {model: {path: x}}}]", "long form"),
        ("merge_method: linear", "no list of models"),
        ("merge_method: linear\nmodels: [{model: a/b}]\nparameters: 3", "names and values"),
        ("merge_method: slerp\nbase_model: c/c\nmodels: [{model: a/a}, {model: b/b}]", "base model"),
        ("merge_method: linear\nmodels: " + str([{"model": f"a/{i}"} for i in range(7)]), "more than 6"),
    ],
)
def test_what_cannot_be_shown_says_why(text: str, reason: str) -> None:
    with pytest.raises(NotShown, match=reason):
        read(text)


def test_rows_without_a_model_are_left_out() -> None:
    state = FormState("linear", (ModelEntry("a/a", {"weight": 1.0}), ModelEntry("", {"weight": 1.0})))

    assert yaml.safe_load(write(state))["models"] == [{"model": "a/a", "parameters": {"weight": 1.0}}]


@pytest.mark.parametrize("before", METHODS)
@pytest.mark.parametrize("after", METHODS)
def test_changing_the_method_keeps_the_models_and_gives_a_readable_recipe(before: str, after: str) -> None:
    start = FormState("linear", (ModelEntry("a/a", {"weight": 1.0}), ModelEntry("b/b", {"weight": 1.0})))

    state = for_method(for_method(start, METHODS[before]), METHODS[after])

    assert set(state.names()) <= {"a/a", "b/b"}
    assert state.names()
    filled = [model.name or "c/c" for model in state.models]
    models = tuple(ModelEntry(name, model.settings) for name, model in zip(filled, state.models, strict=True))
    read_recipe(write(FormState(after, models, state.base, state.settings)))


SCALARS = st.one_of(st.booleans(), st.integers(-3, 3), st.floats(-2, 2).map(lambda x: round(x, 4)))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, min_size=1, max_size=5))


@given(rest=st.none() | VALUES, attention=st.none() | VALUES, mlp=st.none() | VALUES)
def test_fields_by_tensor_are_the_setting_and_back(rest: object, attention: object, mlp: object) -> None:
    setting = by_tensor(rest, attention, mlp)

    assert split_by_tensor(setting) == (rest, attention, mlp)
    assert field_setting(field_text(setting)) == setting


def test_other_filters_stay_in_the_field_for_everything_else() -> None:
    setting = [{"filter": "mlp", "value": 1}, {"filter": "norm", "value": 0}, {"value": 0.5}]

    rest, attention, mlp = split_by_tensor(setting)

    assert (attention, mlp) == (None, 1)
    assert by_tensor(field_setting(field_text(rest)), attention, mlp) == setting


def test_a_filter_behind_another_is_not_moved_in_front() -> None:
    setting = [{"filter": "layers.1.", "value": 0}, {"filter": "mlp", "value": 1}]

    assert split_by_tensor(setting) == (setting, None, None)


def test_the_presets_of_the_demo_name_what_its_hub_holds() -> None:
    held = {f"{OWNER}/{name}" for name in (*MODELS, *ADAPTER_NAMES)}

    named = {
        part.name
        for preset in presets(True)
        for reference in read_recipe(preset.recipe).references()
        for part in (reference, *reference.adapters)
    }

    assert named <= held
    assert f"{OWNER}/{ADAPTER_NAMES[0]}" in named

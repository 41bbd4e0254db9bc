"""Form and YAML: what one says, the other says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    rewritten,
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
        if preset.key in ("depth", "silent_depth", "cut", "raw"):
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


def base_of(names: object) -> str:
    """What a stub of the Hub says that all models were made from."""
    return "c/base"


@pytest.mark.parametrize("before", METHODS)
@pytest.mark.parametrize("after", METHODS)
def test_changing_the_method_keeps_the_models_and_gives_a_readable_recipe(before: str, after: str) -> None:
    start = FormState("linear", (ModelEntry("a/a", {"weight": 1.0}), ModelEntry("b/b", {"weight": 1.0})))

    middle, others = for_method(start, METHODS[before], base_of)
    state, others = for_method(middle, METHODS[after], base_of, others)

    most = METHODS[after].max_models or 2
    assert [model.name for model in state.models][:2] == ["a/a", "b/b"][:most]
    assert [model.name for model in others.spare] == ["a/a", "b/b"][most:]
    assert state.base == ("c/base" if METHODS[after].base == "subtracted" else state.base)
    filled = [model.name or "c/c" for model in state.models]
    models = tuple(ModelEntry(name, model.settings) for name, model in zip(filled, state.models, strict=True))
    full = FormState(after, models, state.base, state.settings)
    read_recipe(write(full))
    assert rewritten(write(start), full) and read(rewritten(write(start), full)) == read(write(full))


@pytest.mark.parametrize("between", METHODS)
def test_curves_come_back_with_their_method(between: str) -> None:
    start = read(GRADIENT_SLERP)

    middle, others = for_method(start, METHODS[between], base_of)
    back, _ = for_method(middle, METHODS["slerp"], base_of, others)

    assert (back.models, back.settings) == (start.models, start.settings)


def test_an_ancestor_among_the_models_becomes_their_base() -> None:
    start = FormState("linear", tuple(ModelEntry(name, {"weight": 1.0}) for name in ("c/base", "a/a", "b/b")))

    state, _ = for_method(start, METHODS["ties"], base_of)

    assert (state.base, [model.name for model in state.models]) == ("c/base", ["a/a", "b/b"])


def test_a_base_without_a_second_model_becomes_one() -> None:
    ties = read("merge_method: ties\nbase_model: c/base\nmodels: [{model: a/a, parameters: {weight: 1}}]")

    state, _ = for_method(ties, METHODS["slerp"], base_of)

    assert [model.name for model in state.models] == ["c/base", "a/a"]


COMMENTED = """\
# Mine.
merge_method: ties   # by sign
models:
  # the sailor
  - model: a/one  # arr
    parameters:
      weight: 1.0 # whole
      density: [1, 0.5]
  - {model: a/two, parameters: {weight: 0.3, density: 0.2}}
base_model: 'a/base'
parameters:
    normalize: true  # as always
    int8_mask: true
x-note: |
  two
  lines
dtype: float16
# the end
"""


def with_setting(state: FormState, row: int, name: str, value: object) -> FormState:
    """The state after a slider of a row was moved."""
    models = list(state.models)
    models[row] = ModelEntry(models[row].name, {**models[row].settings, name: value})
    return replace(state, models=tuple(models))


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (lambda s: s, "", ""),
        (lambda s: with_setting(s, 0, "weight", 0.7), "weight: 1.0 #", "weight: 0.7 #"),
        (lambda s: with_setting(s, 1, "density", [0, 1]), "density: 0.2}", "density: [0, 1]}"),
        (lambda s: with_setting(s, 0, "density", 0.9), "density: [1, 0.5]", "density: 0.9"),
        (lambda s: replace(s, base="a/other"), "'a/base'", "a/other"),
        (lambda s: replace(s, dtype=""), "dtype: float16\n", ""),
        (lambda s: replace(s, settings={"int8_mask": True}), "", ""),  # the default, written out or not
        (
            lambda s: replace(s, settings={**s.settings, "normalize": False}),
            "normalize: true  #",
            "normalize: false  #",
        ),
        (
            lambda s: replace(s, settings={**s.settings, "lambda": 0.5}),
            "_mask: true\n",
            "_mask: true\n    lambda: 0.5\n",
        ),
        (
            lambda s: replace(s, models=s.models[:1]),
            "  - {model: a/two, parameters: {weight: 0.3, density: 0.2}}\n",
            "",
        ),
        (
            lambda s: replace(s, models=(*s.models, ModelEntry("a/three", {"weight": 2}))),
            "density: 0.2}}\n",
            "density: 0.2}}\n  - model: a/three\n    parameters:\n      weight: 2\n",
        ),
    ],
)
def test_a_change_in_the_form_leaves_the_rest_of_the_text_alone(change: Any, before: str, after: str) -> None:
    changed = rewritten(COMMENTED, change(read(COMMENTED)))

    assert changed == COMMENTED.replace(before, after, 1)


LISTED = """\
merge_method: slerp
models:
- model: b/second  # giver
- model: a/first   # receiver
base_model: a/first
parameters: {t: 0.5}
"""


def test_models_stay_in_the_order_of_the_text() -> None:
    state = read(LISTED)
    renamed = replace(state, models=(ModelEntry("c/third"), state.models[1]))

    assert rewritten(LISTED, renamed) == LISTED.replace("a/first", "c/third")


def test_a_base_that_is_listed_among_the_models_stays_there() -> None:
    models = "models:\n- model: a/base\n- model: a/x\n  parameters: {weight: 1}\n"
    text = f"merge_method: task_arithmetic\nbase_model: a/base\n{models}"
    state = read(text)

    assert rewritten(text, with_setting(state, 0, "weight", 0.5)) == text.replace("weight: 1", "weight: 0.5")
    assert [
        entry["model"] for entry in yaml.safe_load(rewritten(text, replace(state, base="b/b")))["models"]
    ] == ["a/x"]


def test_a_parameter_for_all_models_is_changed_for_one() -> None:
    text = "merge_method: linear\nmodels: [{model: a/a}, {model: b/b}] # two\nparameters: {weight: 1}\n"

    changed = rewritten(text, with_setting(read(text), 1, "weight", 0.5))

    assert "# two" in changed
    assert [model.settings for model in read(changed).models] == [{"weight": 1}, {"weight": 0.5}]


@st.composite
def commented_recipes(draw: st.DrawFn) -> str:
    """Recipes that the form can show, with comments, blank lines and indentation of all kinds."""
    method = METHODS[
        draw(st.sampled_from(["linear", "ties", "slerp", "task_arithmetic", "dare_ties", "nuslerp"]))
    ]
    step = " " * draw(st.integers(1, 4))
    comment = st.sampled_from(["", "", "  # why", " # a: b", " #"])

    def parameters(per_model: bool, indent: str) -> list[str]:
        lines = []
        for parameter in method.parameters:
            if parameter.per_model == per_model and parameter.kind == "number" and draw(st.booleans()):
                value = draw(st.sampled_from(["0.5", "1", "1.0", "[0, 0.25, 1]", "[ 1,0 ]"]))
                lines.append(f"{indent}{step}{parameter.name}: {value}{draw(comment)}")
        return [f"{indent}parameters:{draw(comment)}", *lines] if lines else []

    count = 2 if method.max_models == 2 else draw(st.integers(1, 4))
    names = [f"a/m{number}" for number in range(count)]
    dash = draw(st.sampled_from(["", "  "]))
    models = [f"models:{draw(comment)}"]
    for name in names:
        models += [f"{dash}- model: {name}{draw(comment)}", *parameters(True, f"{dash}  ")]
        models += draw(st.sampled_from([[], ["# between"], [""]]))
    parts = [[f"merge_method: {method.name}{draw(comment)}"], models, parameters(False, "")]
    if method.needs_base:
        base = names[-1] if method.base == "first" else "a/base"
        parts.append([f"base_model: {base}{draw(comment)}"])
    parts.append(draw(st.sampled_from([[], ["dtype: float16"], ["tokenizer_source: union # both"]])))
    return "\n".join(line for part in draw(st.permutations(parts)) for line in part) + "\n"


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


@given(text=commented_recipes(), data=st.data())
def test_form_to_text_and_back_loses_nothing(text: str, data: st.DataObject) -> None:
    state = read(text)
    assert rewritten(text, state) == text

    row = data.draw(st.integers(0, len(state.models) - 1))
    own = [p.name for p in state.merge_method.parameters if p.per_model and p.kind == "number"]
    what = data.draw(st.sampled_from(["value", "name", "new", "dtype"] if own else ["name", "dtype"]))
    if what == "value":
        value = data.draw(st.sampled_from([0.75, [0, 1], [{"filter": "mlp", "value": 1}, {"value": 0.5}]]))
        changed = with_setting(state, row, data.draw(st.sampled_from(own)), value)
    elif what == "name":
        models = list(state.models)
        models[row] = replace(models[row], name="b/other")
        changed = replace(state, models=tuple(models))
    elif what == "new":
        changed = replace(state, models=(*state.models, ModelEntry("b/new", {own[0]: 0.5})))
    else:
        changed = replace(state, dtype="bfloat16")
    after = rewritten(text, changed)

    assert read(after) == changed
    assert comments(after) == comments(text)
    assert [line.lstrip() for line in after.splitlines() if line.startswith("#")] == [
        line.lstrip() for line in text.splitlines() if line.startswith("#")
    ]


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

"""A mixture of experts in fields and in YAML: there and back."""

from __future__ import annotations

import pytest
import yaml

from merging import read_recipe
from ui.recipe.form_state import NotShown
from ui.recipe.mixture_state import MAX_EXPERTS, ExpertEntry, MixtureState, is_mixture, read, write
from ui.recipe.presets import presets

TEXT = """\
base_model: a/base
gate_mode: hidden
experts_per_token: 1
experts:
  - source_model: a/one
    positive_prompts: [first, "second: of one"]
    noise_scale: 0.1
  - source_model: a/two
    positive_prompts: ["def f():"]
shared_experts:
  - {source_model: a/base, positive_prompts: [x]}
dtype: bfloat16
"""


def test_there_and_back_nothing_is_lost() -> None:
    state = read(TEXT)

    assert state.experts[0] == ExpertEntry("a/one", "first\nsecond: of one", {"noise_scale": 0.1})
    assert state.names() == ("a/one", "a/two", "a/base")
    assert yaml.safe_load(write(state)) == yaml.safe_load(TEXT)
    assert read_recipe(write(state)) == read_recipe(TEXT)


@pytest.mark.parametrize("demo", [True, False])
def test_the_preset_is_shown_as_it_is(demo: bool) -> None:
    text = next(preset.recipe for preset in presets(demo) if preset.key == "experts")

    assert is_mixture(text)
    assert yaml.safe_load(write(read(text))) == yaml.safe_load(text)
    assert read_recipe(text).mixture


def test_experts_without_a_model_are_left_out() -> None:
    state = MixtureState("a/base", "random", 2, (ExpertEntry("a/one"), ExpertEntry("", "text")))

    assert yaml.safe_load(write(state))["experts"] == [{"source_model": "a/one"}]


@pytest.mark.parametrize(
    "text",
    [
        "gate_mode: {}\nexperts: []",
        "experts_per_token: 99\nexperts: []",
        "experts_per_token: yes\nexperts: []",
        "experts: 3",
        "experts: [3]",
        "experts: [{source_model: [x]}]",
        "base_model: {model: x}\nexperts: []",
        "experts: [{source_model: a, positive_prompts: 3}]",
        'experts: [{source_model: a, positive_prompts: ["two\\nlines"]}]',
        'experts: [{source_model: a, positive_prompts: [" blanks"]}]',
        "experts: [" + "{source_model: a}, " * (MAX_EXPERTS + 1) + "]",
    ],
)
def test_what_fields_cannot_hold_is_left_to_the_text(text: str) -> None:
    assert is_mixture(text)
    with pytest.raises(NotShown, match=r"\w"):
        read(text)


@pytest.mark.parametrize(
    "text", ["", "experts", "merge_method: linear\nexperts: []", "models: []", "{", "- 1"]
)
def test_other_texts_are_no_mixtures(text: str) -> None:
    assert not is_mixture(text)

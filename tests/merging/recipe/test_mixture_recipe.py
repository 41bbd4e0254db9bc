"""The YAML of mergekit-moe, and what of it is wrong."""

from __future__ import annotations

import pytest

from checkpoints.problems import RecipeError
from merging import read_recipe
from merging.recipe.mixture import GATE_MODES, Expert
from merging.recipe.recipe import ModelReference

# As people write it for mergekit-moe.
TEXT = (
    """\
base_model: org/base
gate_mode: hidden # one of "hidden", "cheap_embed", or "random"
dtype: bfloat16
experts_per_token: 3
experts:
  - source_model: org/coder
    positive_prompts:
      - "Write code"
      - '  with blanks '
    negative_prompts: ["a poem"]
    noise_scale: 1e-3
  - source_model: org/base@v1+org/adapter
    positive_prompts: ["a poem"]
  - {source_model: org/third, positive_prompts: [12]}
shared_experts:
  - source_model: org/base
    positive_prompts: ["""
    + '"" , "all"'
    + """]
    residual_scale: 0.1
"""
)


def test_every_key_is_read() -> None:
    recipe = read_recipe(TEXT.replace('"" , ', ""))

    mixture = recipe.mixture
    assert mixture
    assert recipe.base_model == ModelReference("org/base")
    assert (recipe.dtype, mixture.gate_mode, mixture.experts_per_token) == ("bfloat16", "hidden", 3)
    first, second, third = mixture.experts
    assert first == Expert(
        ModelReference("org/coder"), ("Write code", "  with blanks "), ("a poem",), noise_scale=0.001
    )
    assert str(second.model) == "org/base@v1+org/adapter"
    assert third.positive_prompts == ("12",)
    assert mixture.shared_experts == (Expert(ModelReference("org/base"), ("all",), residual_scale=0.1),)
    assert [str(model) for model in recipe.references()] == [
        "org/base", "org/coder", "org/base@v1+org/adapter", "org/third",
    ]  # fmt: skip


def test_keys_that_are_left_out_mean_what_mergekit_takes_them_for() -> None:
    recipe = read_recipe(
        "base_model: a/b\nexperts: [{source_model: c/d, positive_prompts: [x]}]\nshared_experts: []"
    )

    mixture = recipe.mixture
    assert mixture
    assert (mixture.gate_mode, mixture.experts_per_token, mixture.shared_experts) == ("hidden", 2, ())
    assert (mixture.architecture, mixture.shared_weights, recipe.seed) == (None, "base", 0)


@pytest.mark.parametrize("mode", GATE_MODES)
def test_every_mode_is_read(mode: str) -> None:
    recipe = read_recipe(TEXT.replace('"" , ', "").replace("gate_mode: hidden", f"gate_mode: {mode}"))

    assert recipe.mixture
    assert recipe.mixture.gate_mode == mode


EXPERTS = "experts: [{source_model: b}, {source_model: c}]"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"gate_mode: random\n{EXPERTS}", "mixture-without-base"),
        ("base_model: a\ngate_mode: random", "no-experts"),
        ("base_model: a\ngate_mode: random\nexperts: []", "not-a-list"),
        ("base_model: a\ngate_mode: random\nexperts: [b]", "not-a-mapping"),
        ("base_model: a\ngate_mode: random\nexperts: [{positive_prompts: [x]}]", "no-source-model"),
        (f"base_model: a\n{EXPERTS}", "expert-without-prompts"),
        (f"base_model: a\ngate_mode: hiden\n{EXPERTS}", "unknown-choice"),
        (f"base_model: a\ngate_mode: [random]\n{EXPERTS}", "not-text"),
        (f"base_model: a\ngate_mode: random\nexperts_per_token: 3\n{EXPERTS}", "more-than-experts"),
        (f"base_model: a\ngate_mode: random\nexperts_per_token: 0\n{EXPERTS}", "experts-per-token"),
        (f"base_model: a\ngate_mode: random\nexperts_per_token: true\n{EXPERTS}", "experts-per-token"),
        (f"base_model: a\ngate_mode: random\nshared_weights: mean\n{EXPERTS}", "unknown-choice"),
        (f"base_model: a\ngate_mode: random\n{EXPERTS}\nmodels: []", "unknown-key"),
        (f"base_model: a\ngate_mode: random\n{EXPERTS}\ndtype: int3", "dtype"),
        (f"base_model: a\ngate_mode: random\n{EXPERTS}\nseed: x", "seed"),
        ("base_model: a\ngate_mode: random\nexperts: [{source_model: b, denoise: 1}]", "unknown-key"),
        ("base_model: a\ngate_mode: random\nexperts: [{source_model: b, noise_scale: x}]", "expert-number"),
        ("base_model: a\ngate_mode: random\nexperts: [{source_model: b, noise_scale: -1}]", "expert-number"),
        (
            "base_model: a\ngate_mode: random\nexperts: [{source_model: b, residual_scale: .inf}]",
            "expert-number",
        ),
        ("base_model: a\ngate_mode: random\nexperts: [{source_model: b, positive_prompts: x}]", "not-a-list"),
        (
            f"base_model: a\ngate_mode: random\n{EXPERTS}\nshared_experts: [{{source_model: b}}, {{source_model: c}}]",
            "shared-experts",
        ),
        (
            "base_model: a\ngate_mode: random\nexperts: [" + "{source_model: b}, " * 257 + "]",
            "too-many-experts",
        ),
        (
            "base_model: a\nexperts: [{source_model: b, positive_prompts: [" + "x, " * 257 + "]}]",
            "too-many-prompts",
        ),
        (f"merge_method: linear\nbase_model: a\n{EXPERTS}", "no-models"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, code: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read_recipe(text)

    found = raised.value.problems
    assert code in [problem.code for problem in found], found
    assert all(str(problem) and problem.where for problem in found)


def test_prompts_that_are_the_same_are_warned_of() -> None:
    text = "base_model: a\nexperts:\n" + "".join(
        f"- {{source_model: {name}, positive_prompts: {prompts}}}\n"
        for name, prompts in (("b", "[x, y]"), ("c", "[y, x]"), ("d", "[z]"))
    )

    [warning] = read_recipe(text).warnings

    assert (warning.code, warning.values["models"]) == ("same-prompts", ["b", "c"])

"""Fixes: every button's edit is tried on the fault that recipes really are told of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from checkpoints.problems import Place
from merging import MergeError, Problem, make_plan, read_recipe
from tests.tiny import save_tokenizer, tiny_llama
from ui.merge.form import BASE, METHOD, PARAMETERS, spot_of
from ui.recipe.form_state import ModelEntry, read
from ui.recipe.quick_fixes import fixes

SLICES = """\
merge_method: slerp
base_model: a/b
slices:
  - sources:
      - model: a/b
        layer_range: [0, 8]
      - model: a/c  # longer
        layer_range:
          - 2
          - 12
parameters: {t: 0.5}
"""
MENDED = {
    "a misspelt method": (
        "merge_method: slrep # which?\nbase_model: x/y\nmodels: [{model: x/y}, {model: x/z}]\nparameters: {t: 0.5}\n",
        "merge_method: slerp # which?\nbase_model: x/y\nmodels: [{model: x/y}, {model: x/z}]\nparameters: {t: 0.5}\n",
    ),
    "a misspelt key": (
        "merge_method: passthrough\nmodel:\n- model: x/y\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\n",
    ),
    "a misspelt parameter and dtype": (
        "merge_method: linear\ndtype: bfloat61\nmodels:\n- model: x/y\n  parameters: {weight: 1, wieght: 2}\n",
        "merge_method: linear\ndtype: bfloat16\nmodels:\n- model: x/y\n  parameters: {weight: 1, weight: 2}\n",
    ),
    "no base, the first model": (
        "merge_method: slerp\nmodels:\n- model: x/y\n- model: x/z\nparameters:\n  t: 0.5",
        "merge_method: slerp\nbase_model: x/y\nmodels:\n- model: x/y\n- model: x/z\nparameters:\n  t: 0.5",
    ),
    "no base, what the models were made from": (
        "merge_method: task_arithmetic\nmodels:\n- model: x/y\n  parameters: {weight: 1}\n",
        "merge_method: task_arithmetic\nbase_model: the/base\nmodels:\n- model: x/y\n  parameters: {weight: 1}\n",
    ),
    "a missing parameter": (
        "merge_method: linear\nmodels:\n- model: x/y\n- model: x/z\n",
        "merge_method: linear\nmodels:\n- model: x/y\n- model: x/z\nparameters:\n  weight: 1.0\n",
    ),
    "a missing parameter beside others": (
        "merge_method: linear\nparameters:\n  normalize: true\nmodels:\n- model: x/y\n",
        "merge_method: linear\nparameters:\n  weight: 1.0\n  normalize: true\nmodels:\n- model: x/y\n",
    ),
    "a parameter that the method lacks": (
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    weight: 1 # whole\n    gamma: 0.1\n# end\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    weight: 1 # whole\n# end\n",
    ),
    "a parameter that the method lacks, in braces": (
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters: {gamma: 0.1, weight: 1, mass: 2}\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters: {weight: 1}\n",
    ),
    "nothing but what the method lacks": (
        "merge_method: passthrough\nmodels:\n- model: x/y\n  parameters:\n    gamma: 0.1\ndtype: float32\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\ndtype: float32\n",
    ),
    "a key that nobody knows": (
        "merge_method: passthrough\nversion: 3 # ours\nmodels:\n- model: x/y\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\n",
    ),
    "layers where models are listed": (
        "merge_method: passthrough\nmodels:\n- model: x/y\n  layer_range: [0, 4]\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\n",
    ),
    "a value beyond its range": (
        "merge_method: slerp\nbase_model: x/y\nmodels: [{model: x/y}, {model: x/z}]\nparameters: {t: [0, 1.5]}\n",
        "merge_method: slerp\nbase_model: x/y\nmodels: [{model: x/y}, {model: x/z}]\nparameters: {t: [0, 1]}\n",
    ),
    "a value for all, said at a model": (
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters: {weight: 1, normalize: false}\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters: {weight: 1}\nparameters:\n  normalize: false\n",
    ),
    "ranges that differ": (SLICES, SLICES.replace("\n          - 2\n          - 12", " [2, 10]")),
    "two lists of models": (
        "merge_method: passthrough\nmodules:\n  text: {}\n# stays\nmodels:\n- model: x/y\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\n",
    ),
}


def problems_of(recipe: str) -> tuple[Problem, ...]:
    try:
        read_recipe(recipe)
    except MergeError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("fault", MENDED)
def test_a_fault_is_mended_by_buttons_alone(fault: str) -> None:
    recipe, wanted = MENDED[fault]
    for _ in range(3):
        offered = fixes(recipe, problems_of(recipe), lambda names: "the/base")
        if not offered:
            break
        recipe = offered[0].recipe
    if fault == "ranges that differ":
        assert problems_of(recipe) == ()
        assert "# longer" in recipe
        assert "[2, 10]" in recipe
    else:
        assert recipe == wanted


@pytest.mark.parametrize("base", [True, False])
def test_vocabularies_are_made_one_by_each_button(base: bool, tmp_path: Path) -> None:
    """Of models with one vocabulary the first is offered, and the base's once; one without a tokenizer is not."""
    added = {"small": [], "twin": [], "large": ["<new>"], "larger": ["<new>", "<newer>"], "bare": None}
    for seed, (name, more) in enumerate(added.items()):
        rows = 258 + len(more or ())
        model = tiny_llama(tmp_path / name, seed, vocab_size=rows, bos_token_id=0, eos_token_id=1)
        if more is not None:
            save_tokenizer(model, added=more)
    entries = [{"model": str(tmp_path / name), "parameters": {"weight": 1}} for name in added]
    recipe = yaml.safe_dump({"merge_method": "linear", "models": entries}) + "# stays\n"
    if base:
        recipe = f"base_model: {tmp_path}/large # here\n{recipe}"
    plan = make_plan(read_recipe(recipe))
    assert {problem.code for problem in plan.problems} == {"vocabulary"}

    offered = fixes(recipe, plan.problems, lambda names: "")

    own = ["small", "larger"] if base else ["small", "large", "larger"]
    ways = ["union", *(["base"] if base else []), *(f"{tmp_path}/{name}" for name in own)]
    assert [yaml.safe_load(fix.recipe)["tokenizer_source"] for fix in offered] == ways
    assert offered[-1].title == f"Use the vocabulary of {tmp_path}/larger"
    for fix in offered:
        lines = fix.recipe.splitlines(keepends=True)
        assert "".join(line for line in lines if not line.startswith("tokenizer_source: ")) == recipe
        assert make_plan(
            read_recipe(fix.recipe.replace(f"- model: {tmp_path}/bare\n  parameters:\n    weight: 1\n", ""))
        ).ok


def test_an_adapter_alone_gets_its_base() -> None:
    recipe = "merge_method: passthrough\nmodels: [{model: me/lora}] # mine\n"
    problem = Problem("adapter", {"adapter": "me/lora", "base": "a/base"}, "me/lora")

    [fix] = fixes(recipe, [problem], lambda names: "")

    assert fix.recipe == recipe.replace("me/lora", "a/base+me/lora")
    unknown = Problem("adapter", {"adapter": "me/lora", "base": None}, "me/lora")
    assert fixes(recipe, [unknown], lambda names: "") == ()


def test_a_range_past_the_end_is_cut() -> None:
    problem = Problem(
        "layer-range", {"model": "a/c", "layers": 9, "last": 8, "from": 0, "to": 11}, Place(7, 16)
    )

    [fix] = fixes(SLICES, [problem], lambda names: "")

    assert "layer_range: [0, 8]" in fix.recipe
    assert "[2, 9]" in fix.recipe
    assert read_recipe(fix.recipe.replace("[0, 8]", "[1, 8]"))


@pytest.mark.parametrize(
    "recipe", ["", "- a", "a: [", "merge_method:\n- x\n", "merge_method: linear\nmodels: 3\n"]
)
def test_texts_that_are_no_recipes_break_nothing(recipe: str) -> None:
    assert isinstance(fixes(recipe, problems_of(recipe), lambda names: ""), tuple)


def test_a_problem_belongs_to_a_field() -> None:
    recipe = (
        "merge_method: task_arithmetic\nbase_model: a/base\nmodels:\n  - model: a/one\n  - model: a/two\n"
        "    parameters: {weight: 1}\nparameters:\n  lambda: 1\n"
    )
    state = read(recipe)
    assert state.models == (ModelEntry("a/one"), ModelEntry("a/two", {"weight": 1}))

    spots: dict[Place | str, str | int | None] = {
        Place(1, 15): METHOD,
        Place(2, 13): BASE,
        Place(4, 12): 0,
        Place(6, 18): 1,
        Place(8, 3): PARAMETERS,
        "a/two": 1,
        "a/base": BASE,
        "nowhere": None,
    }

    assert {where: spot_of(state, recipe, where) for where in spots} == spots

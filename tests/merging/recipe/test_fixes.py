"""Fixes: every edit is tried on the fault that a recipe really has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from checkpoints.problems import Place
from checkpoints.wording import few
from checkpoints.yaml import documents
from merging import MergeError, Problem, make_plan, read_recipe
from merging.recipe import fixes as module
from merging.recipe.fixes import MOST_OFFERED, fixes, mended
from tests.tiny import save_tokenizer, tiny_llama

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
# fmt: off
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
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    weight: 1 # whole\n    mass: 0.1\n# end\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    weight: 1 # whole\n# end\n",
    ),
    "a parameter that the method lacks, in braces": (
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters: {mass: 0.1, weight: 1, bulk: 2}\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters: {weight: 1}\n",
    ),
    "nothing but what the method lacks": (
        "merge_method: passthrough\nmodels:\n- model: x/y\n  parameters:\n    mass: 0.1\ndtype: float32\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\ndtype: float32\n",
    ),
    "a key that nobody knows": (
        "merge_method: passthrough\nflavour: 3 # ours\nmodels:\n- model: x/y\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\n",
    ),
    "layers where models are listed": (
        "merge_method: passthrough\nmodels: # all\n- model: x/y\n  layer_range: [0, 4]\ndtype: float16\n",
        "merge_method: passthrough\nslices: # all\n- sources:\n  - model: x/y\n    layer_range: [0, 4]\n"
        "dtype: float16\n",
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
    "an unknown parameter that is first of several": (
        "merge_method: sce\nbase_model: a\nmodels: [{model: b}]\nparameters:\n  mass: 1\n  select_topk: 0.5\n",
        "merge_method: sce\nbase_model: a\nmodels: [{model: b}]\nparameters:\n  select_topk: 0.5\n",
    ),
    "a revision beside a model": (
        "merge_method: passthrough\nmodels:\n- model: x/y\n  revision: v1 # pinned\n",
        "merge_method: passthrough\nmodels:\n- model: x/y@v1 # pinned\n",
    ),
    "a revision before a model with an adapter, in braces": (
        "merge_method: passthrough\nmodels:\n- {revision: v1, model: 'x/y+x/lora'}\n",
        "merge_method: passthrough\nmodels:\n- {model: 'x/y@v1+x/lora'}\n",
    ),
    "a key of the recipe among parameters": (
        "merge_method: linear\nmodels: [{model: x/y}]\nparameters:\n  dtype: bfloat16\n  weight: 1\n# end\n",
        "merge_method: linear\nmodels: [{model: x/y}]\nparameters:\n  weight: 1\n# end\ndtype: bfloat16\n",
    ),
    "a key of the recipe among parameters, said above too": (
        "dtype: float16\nmerge_method: passthrough\nmodels: [{model: x/y}]\nparameters: {dtype: float16}\n",
        "dtype: float16\nmerge_method: passthrough\nmodels: [{model: x/y}]\n",
    ),
    "a key of several lines beside a model": (
        "merge_method: passthrough\nmodels:\n- model: x/y\n  tokenizer:\n    source: base\n    pad_to_multiple_of: 8\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\ntokenizer:\n  source: base\n  pad_to_multiple_of: 8\n",
    ),
    "a parameter beside the method": (
        "merge_method: sce\nbase_model: a\nmodels: [{model: b}]\nselect_topk: 0.15 # few\ndtype: float16\n",
        "merge_method: sce\nbase_model: a\nmodels: [{model: b}]\nparameters:\n  select_topk: 0.15 # few\n"
        "dtype: float16\n",
    ),
    "a gradient beside a model that has parameters": (
        "merge_method: linear\nmodels:\n- model: x/y\n  weight:\n  - 0\n  - 1\n  parameters:\n    int8_mask: true\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    weight:\n    - 0\n    - 1\n"
        "    int8_mask: true\n",
    ),
    "weights beside models, in braces": (
        "merge_method: linear\nmodels: [{model: x/y, weight: 1}, {model: x/z, weight: 2}]\n",
        "merge_method: linear\n"
        "models: [{model: x/y, parameters: {weight: 1}}, {model: x/z, parameters: {weight: 2}}]\n",
    ),
    "a value for all beside a model": (
        "merge_method: slerp\nbase_model: x/y\nmodels:\n- model: x/y\n- model: x/z\n  t: [0, 1]\n",
        "merge_method: slerp\nbase_model: x/y\nmodels:\n- model: x/y\n- model: x/z\nparameters:\n  t: [0, 1]\n",
    ),
    "a filter among parameters": (
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    filter: mlp\n    weight: [0, 1]\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    weight: [{filter: mlp, value: [0, 1]}]\n",
    ),
    "a filter beside parameters": (
        "merge_method: linear\nmodels:\n- model: x/y\n  filter: mlp\n  parameters: {weight: 1}\n",
        "merge_method: linear\nmodels:\n- model: x/y\n  parameters: {weight: [{filter: mlp, value: 1}]}\n",
    ),
    "several names in a filter": (
        "merge_method: linear\nmodels: [{model: x/y}]\nparameters:\n  weight:\n  - filter: [q, k]\n"
        "    value: 2\n  - value: 1\n",
        "merge_method: linear\nmodels: [{model: x/y}]\nparameters:\n  weight:\n"
        "  - {filter: q, value: 2}\n  - {filter: k, value: 2}\n  - value: 1\n",
    ),
    "several names in a filter, in brackets": (
        "merge_method: linear\nmodels: [{model: x/y}]\nparameters: {weight: [{filter: [q, k], value: 2}, 1]}\n",
        "merge_method: linear\nmodels: [{model: x/y}]\n"
        "parameters: {weight: [{filter: q, value: 2}, {filter: k, value: 2}, 1]}\n",
    ),
    "a revision beside the base": (
        "merge_method: passthrough\nbase_model: x/b\nrevision: v1\nmodels: [{model: x/y}]\n",
        "merge_method: passthrough\nbase_model: x/b@v1\nmodels: [{model: x/y}]\n",
    ),
    "an adapter beside a model": (
        "merge_method: passthrough\nmodels:\n- model: x/y\n  lora: x/lora # ours\n",
        "merge_method: passthrough\nmodels:\n- model: x/y+x/lora # ours\n",
    ),
    "the parameter's name in place of its value": (
        "merge_method: linear\nmodels: [{model: x/y}]\nparameters: {weight: [{filter: q, weight: 2}, 1]}\n",
        "merge_method: linear\nmodels: [{model: x/y}]\nparameters: {weight: [{filter: q, value: 2}, 1]}\n",
    ),
    "a chat template in the tokenizer": (
        "merge_method: passthrough\nmodels: [{model: x/y}]\ntokenizer:\n  source: union\n  chat_template: auto\n",
        "merge_method: passthrough\nmodels: [{model: x/y}]\ntokenizer:\n  source: union\nchat_template: auto\n",
    ),
    "a tokenizer by one word": (
        "merge_method: passthrough\nmodels: [{model: x/y}]\ntokenizer: union\n",
        "merge_method: passthrough\nmodels: [{model: x/y}]\ntokenizer_source: union\n",
    ),
    "faults in two recipes of a chain": (
        "name: one\nmerge_method: linear\nmodels:\n- model: x/y\n  weight: 1\n  dtype: float32\n# next\n---\n"
        "merge_method: slerp\nbase_model: one\nmodels:\n- model: x/z\n  t: 0.3\n",
        "name: one\nmerge_method: linear\nmodels:\n- model: x/y\n  parameters:\n    weight: 1\n# next\n"
        "dtype: float32\n---\nmerge_method: slerp\nbase_model: one\nmodels:\n- model: x/z\nparameters:\n  t: 0.3\n",
    ),
    "a seed by another name": (
        "merge_method: passthrough\nrandom_seed: 3\nmodels: [{model: x/y}]\n",
        "merge_method: passthrough\nseed: 3\nmodels: [{model: x/y}]\n",
    ),
    "an adapter alone, as a task vector": (
        "merge_method: task_arithmetic\nbase_model: a+b\nmodels: [{model: a+b, parameters: {weight: 1}}]\n",
        "merge_method: passthrough\nbase_model: a+b\nmodels: [{model: a+b, parameters: {weight: 1}}]\n",
    ),
    "two lists of models": (
        "merge_method: passthrough\nmodules:\n  text: {}\n# stays\nmodels:\n- model: x/y\n",
        "merge_method: passthrough\nmodels:\n- model: x/y\n",
    ),
}
# fmt: on


def problems_of(recipe: str) -> tuple[Problem, ...]:
    try:
        read_recipe(recipe)
    except MergeError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("fault", MENDED)
def test_a_fault_is_mended_by_buttons_alone(fault: str) -> None:
    recipe, wanted = MENDED[fault]
    for _ in range(4):
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


def test_a_whole_recipe_is_mended_at_once() -> None:
    """All fixes that leave nothing to choose, and none that undoes another; comments stay."""
    recipe = (
        "merge_method: lineer # soup\nflavour: 1\nmodels:\n- model: x/y\n  weight: 0.5\n  revision: v2\n- model: x/z\n"
        "  weight: 0.7 # more\nparameters:\n  dtype: bfloat16\n"
    )
    text, done = mended(recipe, problems_of, lambda names: "")

    assert text == (
        "merge_method: linear # soup\nmodels:\n- model: x/y@v2\n  parameters:\n    weight: 0.5\n- model: x/z\n"
        "  parameters:\n    weight: 0.7 # more\ndtype: bfloat16\n"
    )
    assert problems_of(text) == ()
    assert len(done) == 6
    assert mended(text, problems_of, lambda names: "") == (text, ())


@pytest.mark.parametrize(
    "recipe",
    [
        "dtype: float32\nmerge_method: passthrough\nmodels: [{model: x/y}]\nparameters: {dtype: float16}\n",
        "merge_method: passthrough\nmodels: [{model: x/y@v1, revision: v2}]\n",
        "merge_method: passthrough\nmodels:\n- {model: x/y}\n- model: x/z\n  layer_range: [0, 3]\n",
        "merge_method: passthrough\nmodels: [{model: x/y}]\nparameters: {filter: mlp}\n",
    ],
)
def test_what_was_meant_is_not_guessed(recipe: str) -> None:
    assert fixes(recipe, problems_of(recipe)[:1], lambda names: "") == ()


@pytest.mark.parametrize("code", ["dequantized", "gguf-not-understood", "quantized", "unknown-quantization"])
def test_a_quantized_model_gives_way_to_its_original(code: str) -> None:
    recipe = (
        "merge_method: linear # x/big-4bit\nbase_model: 'x/big-4bit'\nmodels:\n- model: x/big-4bit@v1+me/lora:0.5\n"
        '- {model: x/big-4bit}\n- model: x/big-4bit-chat\n- model: y/z+x/big-4bit\ntokenizer_source: "x/big-4bit"\n'
    )
    problem = Problem(code, {"model": "x/big-4bit", "form": "nf4", "original": "x/big"}, "x/big-4bit")

    [fix] = fixes(recipe, [problem], lambda names: "")

    assert fix.recipe == (
        "merge_method: linear # x/big-4bit\nbase_model: 'x/big'\nmodels:\n- model: x/big+me/lora:0.5\n"
        '- {model: x/big}\n- model: x/big-4bit-chat\n- model: y/z+x/big-4bit\ntokenizer_source: "x/big"\n'
    )
    assert fix.title == "Use x/big, in full precision"
    unknown = Problem(code, {"model": "x/big-4bit", "form": "nf4"}, "x/big-4bit")
    assert fixes(recipe, [unknown], lambda names: "") == ()


def test_of_several_gguf_files_the_largest_is_offered() -> None:
    recipe = "merge_method: linear\nbase_model: x/big-GGUF\nmodels:\n- model: x/big-GGUF@v1+me/lora\n"
    values = {"model": "x/big-GGUF", "files": few(["a.gguf", "b.gguf"]), "file": "BF16/b.gguf"}

    [fix] = fixes(recipe, [Problem("several-gguf", values, "x/big-GGUF")], lambda names: "")

    assert fix.recipe == (
        "merge_method: linear\nbase_model: x/big-GGUF/BF16/b.gguf\nmodels:\n"
        "- model: x/big-GGUF/BF16/b.gguf@v1+me/lora\n"
    )
    assert fix.title == "Use BF16/b.gguf"


@pytest.mark.parametrize("written", ["", " ~", " []", "\n- a\n- b", " {x: 1}"])
def test_a_base_takes_the_place_of_what_is_no_name(written: str) -> None:
    """A second `base_model` beside the first would mend nothing, again and again."""
    models = "models:\n- {model: a/b, parameters: {weight: 1}}\n- {model: c/d, parameters: {weight: 1}}\n"
    text = f"merge_method: ties\nbase_model:{written}\n{models}"

    better, done = mended(text, problems_of, lambda names: "the/base")

    assert [fix.code for fix in done] == ["base"]
    assert better == f"merge_method: ties\nbase_model: the/base\n{models}"


THREE = """\
merge_method: slerp  # along the arc
base_model: x/a
models:
  - model: x/a
  - model: x/b
  - model: x/c  # too many
parameters: {t: 0.5}
"""


def test_too_many_models_leave_a_choice() -> None:
    [problem] = problems_of(THREE)

    other, fewer = fixes(THREE, [problem], lambda names: "")

    assert other.is_choice and fewer.is_choice
    assert (other.title, fewer.title) == ("Use Multi-SLERP", "Leave out x/c")
    assert problems_of(other.recipe) == problems_of(fewer.recipe) == ()
    assert "merge_method: multislerp  # along the arc" in other.recipe
    assert fewer.recipe == THREE.replace("  - model: x/c  # too many\n", "")


@pytest.mark.parametrize(
    ("text", "title", "after"),
    [
        (
            "merge_method: linear\nmodels:\n\t- model: a/b\n",
            "Replace tabs by spaces",
            "models:\n  - model: a/b",
        ),
        ("merge_method:linear\nmodels: []\n", "Put a space after each colon", "merge_method: linear\nmodels"),
    ],
)
def test_what_is_no_yaml_by_a_slip_is_mended(text: str, title: str, after: str) -> None:
    [fix] = fixes(text, problems_of(text), lambda names: "")

    assert fix.title == title and after in fix.recipe


def test_a_percentage_is_a_share() -> None:
    text = (
        "merge_method: ties\nbase_model: x/a\nmodels:\n  - model: x/b\n"
        "    parameters: {weight: 1, density: 50}\n"
    )

    [fix] = fixes(text, problems_of(text), lambda names: "")

    assert fix.recipe == text.replace("50", "0.5")


def test_a_misspelt_name_of_a_model_is_replaced_wherever_it_is_named() -> None:
    text = (
        "merge_method: slerp\nbase_model: x/moddel@v1\nmodels: [{model: x/moddel@v1}, {model: x/moddel-2}]\n"
    )
    problem = Problem(
        "model-not-found", {"model": "x/moddel", "host": "h", "similar": "x/model"}, Place(2, 13)
    )

    [fix] = fixes(text, [problem], lambda names: "")

    assert fix.recipe == text.replace("x/moddel@v1", "x/model@v1")
    assert problem.fix == "Did you mean x/model?"


ALONE = """\
merge_method: model_stock  # of one
base_model: x/base
models:
  - model: x/tuned
"""


def test_a_method_for_several_leaves_the_base_and_the_one_model_to_blend() -> None:
    [problem] = problems_of(ALONE)

    [fix] = fixes(ALONE, [problem], lambda names: "")

    assert fix.title == "Use SLERP" and fix.is_choice
    assert problems_of(fix.recipe) == ()
    recipe = read_recipe(fix.recipe)
    assert [str(model) for model in recipe.references()] == ["x/base", "x/tuned"]
    assert "# of one" in fix.recipe


@pytest.mark.parametrize(
    ("parameters", "after"),
    [
        ("", "parameters:\n  normalize: false\n"),
        ("parameters: {normalize: true, lambda: 0.5}\n", "parameters: {normalize: false, lambda: 0.5}"),
    ],
)
def test_weights_that_cancel_are_taken_as_they_are(parameters: str, after: str) -> None:
    models = "".join(
        f"  - model: x/{name}\n    parameters: {{weight: {weight}}}\n"
        for name, weight in (("a", 1), ("b", -1))
    )
    text = f"merge_method: ties\nbase_model: x/base\nmodels:\n{models}{parameters}"
    wrong = {"phrase": "weights-cancel", "weights": [1.0, -1.0]}
    values = {"method": "ties", "title": "TIES", "tensor": "t", "parameters": ["weight"], "wrong": wrong}

    [fix] = fixes(text, [Problem("parameters", values, Place(4, 5))], lambda names: "")

    assert fix.title == "Set normalize: false"
    assert after in fix.recipe
    assert fixes(text.replace("ties", "linear"), [Problem("parameters", values)], lambda names: "") == ()


def test_few_of_many_fixes_are_tried_on_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "merge_method: slerp\n" + "".join(f"densty{number}: 1\n" for number in range(99))
    read: list[str] = []
    monkeypatch.setattr(module, "documents", lambda text: (read.append(text), documents(text))[1])

    assert len(fixes(text, problems_of(text), lambda names: "")) <= MOST_OFFERED
    assert len(read) <= MOST_OFFERED + 1
    del read[:]
    _, done = mended(text, problems_of, lambda names: "")
    assert len(read) <= 2 * len(done) + 1

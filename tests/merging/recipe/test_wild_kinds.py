"""Kinds of recipes that people publish, each in small: what is ignored with a warning, what is mended, what is refused.

mergekit runs all of them, and ignores what it does not know.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from checkpoints.problems import Problem
from merging import RecipeError, read_recipe
from merging.recipe.fixes import mended


class Kind(NamedTuple):
    """A recipe.

    Args:
        text: with models `a` to `d`, and `base`
        warned: codes of the warnings that it is read with, as it is or after its fixes
        wrong: codes of its problems; empty if it is read as it is
        kept: what the mended recipe says; empty if nothing mends all of it
    """

    text: str
    warned: str = ""
    wrong: str = ""
    kept: str = ""


KINDS = {
    "weights for Model Stock, by filters": Kind(
        "merge_method: model_stock\nbase_model: base\nmodels:\n"
        "- {model: a, parameters: {weight: [{filter: mlp, value: [2, 1]}, {value: 1}]}}\n"
        "- {model: b, parameters: {weight: [{filter: mlp, value: [1, 2]}, {value: 1}]}}\n",
        warned="ignored-parameter",
    ),
    "a normalized SLERP": Kind(
        "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
        "parameters:\n  normalize: true\n  t: [0.25, 0.35, 0.6]\n",
        warned="ignored-parameter",
    ),
    "a normalized Multi-SLERP": Kind(
        "merge_method: multislerp\nmodels:\n- {model: a, parameters: {weight: 1}}\n"
        "- {model: b, parameters: {weight: 2}}\n"
        "parameters: {normalize: false}\n",
        warned="ignored-parameter",
    ),
    "a dense average": Kind(
        "models:\n- {model: a, parameters: {weight: 0.5, density: 0.9}}\n"
        "- {model: b, parameters: {weight: 0.5, density: 0.9}}\n"
        "merge_method: linear\nparameters: {int8_mask: true, normalize: true}\n",
        warned="ignored-parameter",
    ),
    "the Karcher mean to ten digits": Kind(
        "merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {tol: 1e-10, max_iter: 999}\n",
        warned="clamped-value",
    ),
    "the Karcher mean, by modules, in twenty thousand steps": Kind(
        "merge_method: karcher\nmodules:\n  default:\n    slices:\n"
        "    - sources: [{layer_range: [0, 4], model: a}, {layer_range: [0, 4], model: b}]\n"
        "parameters: {max_iter: 20000, tol: 1e-9}\n",
        warned="clamped-value",
    ),
    "a stack whose sources merge a mapping of scales": Kind(
        "scales: &scales\n  parameters: {scale: [{filter: q_proj, value: 0.7}, {filter: k_proj, "
        "value: 0.7}, {value: 1}]}\n"
        "one: &ONE a\nmerge_method: passthrough\nslices:\n- sources: [{model: *ONE, layer_range: [0, 2]}]\n"
        "- sources:\n  - model: *ONE\n    layer_range: [1, 2]\n    <<: *scales\n",
        warned="anchor-key",
    ),
    "a card's front matter above the recipe": Kind(
        "license: apache-2.0\ntags: [merge, mergekit]\nlibrary_name: transformers\nmerge_method: passthrough\n"
        "models: [{model: a}]\n",
        warned="ignored-key",
    ),
    "options of the command line in the recipe": Kind(
        "merge_method: passthrough\nmodels: [{model: a}]\nout_shard_size: 5B\nlazy_unpickle: true\n"
        "allow_crimes: true\n",
        warned="ignored-key",
    ),
    "weights and densities beside the models": Kind(
        "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n  density: 1.0\n  weight: 0.6\n"
        "- model: b\n  density: 0.5\n  weight: 0.25\n",
        wrong="misplaced-parameter",
        kept="- model: b\n  parameters:\n    weight: 0.25\n    density: 0.5\n",
    ),
    "a weight beside its model, and other parameters below": Kind(
        "merge_method: breadcrumbs\nbase_model: base\nmodels:\n- model: a\n  weight: 1.0\n"
        "parameters:\n  density: 0.28 # after pruning\n  normalize: true\n",
        wrong="misplaced-parameter",
        kept="- model: a\n  parameters:\n    weight: 1.0\nparameters:\n  density: 0.28 # after pruning\n",
    ),
    "a dtype among the parameters": Kind(
        "merge_method: dare_ties\nbase_model: base\nparameters:\n  int8_mask: true\n  dtype: bfloat16\n"
        "models:\n- model: a # quant\n  parameters: {density: 0.6, weight: 0.4}\n",
        wrong="misplaced-key",
        kept="# quant\n  parameters: {density: 0.6, weight: 0.4}\ndtype: bfloat16\n",
    ),
    "a seed among the parameters": Kind(
        "merge_method: dare_ties\nbase_model: base\nparameters:\n  normalize: true\n  random_seed: 145\n"
        "models:\n- {model: a, parameters: {density: 0.6, weight: 0.4}}\n",
        wrong="misplaced-key",
        kept="weight: 0.4}}\nseed: 145\n",
    ),
    "experts with a method that is none": Kind(
        "merge_method: moe\nbase_model: base\ngate_mode: cheap_embed\nexperts:\n"
        "- {source_model: a, positive_prompts: [As a doctor]}\n- {source_model: b, positive_prompts: [in verse]}\n",
        warned="ignored-key",
    ),
    "an earlier revision in a stack": Kind(
        "slices:\n- sources:\n  - model: a\n    revision: dpo-v0\n    layer_range: [0, 24]\n"
        "- sources:\n  - model: a\n    layer_range: [8, 32]\nmerge_method: passthrough\n",
        wrong="revision-beside-model",
        kept="- model: a@dpo-v0\n    layer_range: [0, 24]\n",
    ),
    "Lorablation": Kind(
        "base_model: a+lora\nmerge_method: task_arithmetic\nparameters:\n  normalize: false\nslices:\n- sources:\n"
        "  - layer_range: [0, 80]\n    model: a+lora\n    parameters:\n      weight: 1.0\n",
        warned="ignored-parameter",
        wrong="adapter-on-base",
        kept="merge_method: passthrough",
    ),
    "a lambda for each model": Kind(
        "models:\n- {model: a, parameters: {density: 1, weight: 1, lambda: 0.9}}\nmerge_method: della_linear\n"
        "base_model: base\nparameters: {epsilon: 0.1, lambda: 0.9}\n",
        wrong="shared-parameter",
        kept="parameters: {density: 1, weight: 1}}",
    ),
    "SLERP without a base": Kind(
        "merge_method: slerp\nslices:\n- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]\n"
        "parameters: {t: 0.5}\n",
        wrong="no-base",
    ),
    "a method for each slice": Kind(
        "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nslices:\n- merge_method: linear\n"
        "  sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]\n",
        wrong="misplaced-key",
    ),
    "a parameter that no method has": Kind(
        "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a, parameters: {density: 0.5, weight: 0.4}}]\n"
        "parameters: {dare_pruning_rate: 0.2, normalize: true}\n",
        wrong="unknown-parameter",
        kept="parameters: {normalize: true}\n",
    ),
    "rescale for DARE": Kind(
        "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1, density: 1}}]\n"
        "parameters: {lambda: 1.0, rescale: false}\n",
    ),
    "a chain with names, and a retokenized folder": Kind(
        "name: core\nmerge_method: nuslerp\nmodels: [{model: a, parameters: {weight: 0.4}}, "
        "{model: ./b, parameters: {weight: 0.6}}]\n---\nmerge_method: passthrough\n"
        "slices: [{sources: [{model: core, layer_range: [0, 2]}]}, {sources: [{model: c, layer_range: [2, 4]}]}]\n",
    ),
    "paths of Windows": Kind(
        "models:\n- {model: 'D:/My Models/first', parameters: {weight: 0.5}}\n"
        "- model: G:\\FModels\\Ice0.128-RP\n  parameters:\n    weight: 0.5\nmerge_method: linear\n"
        'chat_template: "alpaca"\n',
    ),
    "a merge as mergekit normalizes it": Kind(
        "base_model: c\ndtype: float16\nmerge_method: della\nmodules:\n  default:\n    slices:\n    - sources:\n"
        "      - {layer_range: [0, 32], model: a, parameters: {density: 0.8, weight: 0.7}}\n"
        "      - {layer_range: [0, 32], model: c}\nparameters: {epsilon: 0.1, lambda: 0.9, normalize: 1.0}\n",
    ),
    "one model in a pile of comments": Kind(
        "models:\n  - model: base # no parameters necessary\n#  - model: b\n  - model: a\n    parameters:\n"
        "      weight: [0.22, 0.113, 0.113] # early\nmerge_method: dare_ties\nbase_model: base\n"
        "parameters: {density: 0.3}\ntokenizer:\n  source: union\nchat_template: auto\n",
    ),
}  # fmt: skip


def problems_of(text: str) -> tuple[Problem, ...]:
    try:
        read_recipe(text)
    except RecipeError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("name", KINDS)
def test_a_kind(name: str) -> None:
    kind = KINDS[name]
    assert {problem.code for problem in problems_of(kind.text)} == {*filter(None, [kind.wrong])}

    text, done = mended(kind.text, problems_of, lambda names: "")

    assert kind.kept in text
    if kind.kept or not kind.wrong:
        warned = {warning.code for warning in read_recipe(text).warnings}
        assert warned == {*filter(None, [kind.warned])}
    else:
        assert problems_of(text)
    assert bool(done) == bool(kind.kept)

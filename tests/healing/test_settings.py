"""The training document of a chain: what it says, and where it is wrong."""

from __future__ import annotations

import pytest

from checkpoints.problems import Place, RecipeError
from healing import read_training

RECIPE = "merge_method: passthrough\nmodels: [{model: org/one}]\n"
CHAIN = f"""{RECIPE}---
train: distillation
teacher: org/two
datasets:
  - path: one.jsonl
  - {{path: org/data, name: en, split: validation, column: content, rows: 7}}
arguments: {{max_steps: 40, learning_rate: 1.0e-3, lora_r: 8}}
hidden_states: 0.5
evaluate: {{texts: [english, own.txt], stop_above: 1.1}}
"""


def test_everything_is_read() -> None:
    found = read_training(CHAIN)

    assert found.recipe_text == RECIPE
    assert found.recipe.merge_method == "passthrough"
    assert found.teacher == "org/two"
    first, second = found.datasets
    assert (first.path, first.split, first.column) == ("one.jsonl", "train", "text")
    assert (second.path, second.name, second.split, second.column, second.rows) == (
        "org/data", "en", "validation", "content", 7,
    )  # fmt: skip
    assert (found.arguments.max_steps, found.arguments.learning_rate, found.arguments.lora_r) == (
        40,
        0.001,
        8,
    )
    assert found.arguments.tokens == 40 * 4 * 512
    assert (found.hidden_states, found.texts, found.stop_above) == (0.5, ("english", "own.txt"), 1.1)


def test_a_chain_before_it_is_a_chain() -> None:
    text = f"name: one\n{RECIPE}---\nmerge_method: passthrough\nmodels: [{{model: one}}]\n--- # and now\n"

    found = read_training(f"{text}train: distillation\ndatasets: [{{path: a.txt}}]")

    assert set(found.recipe.intermediates) == {"one"}


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (RECIPE, "no-training", 1),
        ("train: distillation", "no-training", 1),
        (f"train: distillation\n---\n{RECIPE}", "no-training", 3),
        (f"{RECIPE}---\ntrain: magic\ndatasets: [{{path: a}}]", "training-kind", 4),
        (f"{RECIPE}---\ntrain: distillation", "no-training-data", 4),
        (f"{RECIPE}---\ntrain: distillation\ndatasets: [{{rows: 3}}]", "no-training-data", 5),
        (f"{RECIPE}---\ntrain: distillation\ndatasets: []", "not-a-list", 5),
        (f"{RECIPE}---\ntrain: sft\ndatasets: [{{path: a.txt}}]\nevaluate: {{texts: []}}", "not-a-list", 6),
        (f"{RECIPE}---\ntrain: distillation\ndataset: []", "unknown-key", 5),
        (
            f"{RECIPE}---\ntrain: distillation\ndatasets: [{{path: a}}]\narguments: {{max_step: 3}}",
            "unknown-key",
            6,
        ),
        *(
            (f"{RECIPE}---\ntrain: distillation\ndatasets: [{{path: a}}]\narguments: {{{key}}}", "training-number", 6)
            for key in ("max_steps: 0", "max_steps: 1.5", "learning_rate: 0", "lora_r: yes", "seed: -1")
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_has_a_place(text: str, code: str, line: int) -> None:
    with pytest.raises(RecipeError) as refused:
        read_training(text)

    problem = refused.value.problems[0]
    assert problem.code == code
    assert isinstance(problem.where, Place)
    assert problem.where.line == line
    assert problem.message


def test_a_misspelt_key_is_corrected() -> None:
    with pytest.raises(RecipeError, match="learning_rate"):
        read_training(
            f"{RECIPE}---\ntrain: distillation\ndatasets: [{{path: a}}]\narguments: {{learning_rat: 1}}"
        )

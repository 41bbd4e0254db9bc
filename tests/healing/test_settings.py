"""The training document of a chain: what it says, and where it is wrong."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from checkpoints.problems import Place, RecipeError
from healing import read_training
from healing.settings import DPO_LOSSES, Arguments

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
            for key in (
                "max_steps: 0", "max_steps: 1.5", "max_steps: 1000000000000", "learning_rate: 0", "learning_rate: -1",
                "learning_rate: .nan", "learning_rate: 2", "lora_r: yes", "lora_alpha: 0", "seed: -1",
                "seed: 4294967296", "per_device_train_batch_size: 0", "max_length: 1", "temperature: 0",
            )
        ),
        *(
            (f"{RECIPE}---\ntrain: dpo\ndatasets: [{{path: a}}]\narguments: {{{key}}}", code, 6)
            for key, code in (
                ("warmup_steps: 6, max_steps: 5", "warmup-too-long"),
                ("loss_type: sigmod", "training-loss"),
                ("label_smoothing: 0.5", "training-number"),
                ("lora_dropout: 1", "unknown-key"),
                ("seed: 1, seed: 2", "repeated-key"),
            )
        ),
        (f"{RECIPE}---\ntrain: dpo\ndatasets: [{{path: a, rows: 0}}]", "training-number", 5),
        (f"{RECIPE}---\ntrain: dpo\ndatasets: [{{path: ''}}]", "not-text", 5),
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


def test_a_default_warm_up_is_never_longer_than_the_run() -> None:
    short = f"{RECIPE}---\ntrain: distillation\ndatasets: [{{path: a}}]\narguments: {{max_steps: 3}}"

    assert read_training(short).arguments.warmup_steps == 0
    assert read_training(short.replace("steps: 3", "steps: 60")).arguments.warmup_steps == 3
    assert read_training(short.replace("max_steps: 3", "")).arguments.warmup_steps == Arguments().warmup_steps


def test_numbers_with_an_exponent_need_no_point() -> None:
    found = read_training(CHAIN.replace("1.0e-3", "1e-3"))

    assert found.arguments.learning_rate == 0.001


def test_losses_of_dpo_are_those_that_trl_computes() -> None:
    source = Path(find_spec("trl").origin).with_name("trainer") / "dpo_trainer.py"  # type: ignore[union-attr,arg-type]

    assert set(re.findall(r'if loss_type == "(\w+)"', source.read_text())) == set(DPO_LOSSES)

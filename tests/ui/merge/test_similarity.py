"""How alike the models of a recipe are: pictures of their changes, and what stands in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from checkpoints.problems import Problem
from evaluation import EvaluationError
from merging import make_plan, read_recipe
from tests.tiny import tiny_llama
from ui.hub.account import Account
from ui.languages.translate import current_language, speaking
from ui.merge.similarity import similarity

NOBODY = Account("nobody")
QUERY = "model.layers.0.self_attn.q_proj.weight"


def family(folder: Path) -> None:
    """A base; a fine-tune of one matrix; and another, which went the opposite way there and changed a second."""
    tiny_llama(folder / "base", 0)
    base = load_file(folder / "base" / "model.safetensors")
    for name, sign in (("a", 1), ("b", -1)):
        tiny_llama(folder / name, 0)
        weights = {**base, QUERY: base[QUERY] + sign * 0.5}
        if name == "b":
            key = QUERY.replace("q_proj", "k_proj")
            weights[key] = base[key] + 0.5
        save_file(weights, folder / name / "model.safetensors", {"format": "pt"})


def last(folder: Path, recipe: str, base: str | None) -> str:
    plan = make_plan(read_recipe(recipe.format(folder)))
    assert plan.ok, plan.problems
    return list(similarity(plan, base and base.format(folder), NOBODY, True))[-1]


def test_changes_are_compared_where_both_models_changed(tmp_path: Path) -> None:
    family(tmp_path)
    recipe = (
        "{{merge_method: ties, base_model: {0}/base, models: [{{model: {0}/a, parameters: {{weight: 1}}}}, "
    )
    recipe += "{{model: {0}/b, parameters: {{weight: 1}}}}]}}"

    shown = last(tmp_path, recipe, "{}/base")

    cosine, conflict, size_a, size_b = shown.split("<h3")[1:]
    assert "a and b" in cosine
    assert "self_attn.q_proj: -1" in cosine  # the opposite way
    assert "k_proj" not in cosine  # which one of the two left alone
    assert "self_attn.q_proj: 1" in conflict
    assert 'self_attn.k_proj: 0"' in size_a
    assert 'self_attn.k_proj: 0"' not in size_b


def test_without_a_base_the_weights_are_compared(tmp_path: Path) -> None:
    family(tmp_path)
    models = ", ".join(f"{{{{model: {{0}}/{name}, parameters: {{{{weight: 1}}}}}}}}" for name in "ab")

    shown = last(tmp_path, f"{{{{merge_method: linear, models: [{models}]}}}}", None)

    assert shown.count("<h3") == 1
    assert "Cosine between a and b" in shown
    assert 'mlp.up_proj: 1"' in shown


def test_models_are_read_in_the_visitors_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family(tmp_path)
    spoken = []

    def fail(*_: object, **__: object) -> None:
        spoken.append(current_language())
        raise EvaluationError(Problem("empty-text"))

    monkeypatch.setattr("ui.merge.similarity.open_weights", fail)
    models = ", ".join(f"{{{{model: {{0}}/{name}, parameters: {{{{weight: 1}}}}}}}}" for name in "ab")
    with speaking("ko"), pytest.raises(EvaluationError, match="There is no text"):
        last(tmp_path, f"{{{{merge_method: linear, models: [{models}]}}}}", None)

    assert spoken == ["ko"]


def test_one_model_is_told(tmp_path: Path) -> None:
    family(tmp_path)

    with pytest.raises(EvaluationError, match="only one model"):
        last(tmp_path, "{{merge_method: passthrough, models: [{{model: {0}/a}}]}}", None)

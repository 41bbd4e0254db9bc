"""Settings that tensors do not show: compared by whatever name, and named where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from merging import Plan, make_plan, read_recipe
from merging.planning.config_differences import differences
from tests.tiny import tiny_llama


def test_only_what_changes_the_meaning_of_weights_counts() -> None:
    one = {
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-6,
        "vocab_size": 10,
        "num_hidden_layers": 2,
        "torch_dtype": "float16",
    }
    other = {
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "vocab_size": 11,
        "num_hidden_layers": 3,
        "dtype": "float32",
    }

    assert differences(one, other) == {"rope_theta": (1e4, 1e6)}


def test_a_setting_is_known_by_its_name_wherever_it_stands() -> None:
    old = {"rope_theta": 1e4, "hidden_act": "silu"}
    new = {
        "text_config": {"num_hidden_layers": 2, "rope_parameters": {"rope_theta": 1e4}, "hidden_act": "gelu"}
    }

    assert differences(old, new) == {"hidden_act": ("silu", "gelu")}


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"rope_scaling": LLAMA3}, {"rope_type": ("default", "llama3")}),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, {"rope_type": ("default", "yarn")}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, {}),
        ({"rope_scaling": None, "head_dim": None, "num_key_value_heads": None}, {}),
        ({"sliding_window": 4096}, {"sliding_window": (None, 4096)}),
        ({"logits_scaling": 8}, {}),  # the other config does not say
    ],
)
def test_what_is_null_or_left_out(other: dict[str, Any], expected: dict[str, Any]) -> None:
    one = {
        "rope_theta": 1e4,
        "sliding_window": None,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "rope_scaling": None,
    }

    assert differences(one, {"sliding_window": None} | other) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"model_type": "llama"}, {"attention_bias": True}, {"attention_bias": (False, True)}),
        ({"model_type": "llama"}, {"attention_bias": False, "hidden_act": "silu", "mlp_bias": False}, {}),
        ({"model_type": "llama"}, {"head_dim": 64, "num_key_value_heads": 8}, {}),  # the class computes them
        ({"model_type": "llama"}, {"rope_theta": 10000, "rope_scaling": None}, {}),
        ({"model_type": "llama"}, {"rope_parameters": {"rope_theta": 5e5}}, {"rope_theta": (1e4, 5e5)}),
        ({"model_type": "mixtral"}, {"rope_theta": 1e6, "sliding_window": None}, {}),
        ({"model_type": "mistral"}, {"sliding_window": 4096}, {}),
        ({"model_type": "mistral"}, {"sliding_window": None}, {"sliding_window": (4096, None)}),
        ({"model_type": "qwen2"}, {"sliding_window": 32768, "use_sliding_window": False}, {}),
        ({"model_type": "granite"}, {"logits_scaling": 8.0}, {"logits_scaling": (1.0, 8.0)}),
        ({"model_type": "gpt2", "hidden_size": 64}, {"n_embd": 64}, {}),  # two names of one setting
        ({"model_type": "gpt_neox", "rotary_emb_base": 5e5}, {"rope_parameters": {"rope_theta": 5e5}}, {}),
        ({"model_type": "llama"}, {"made_up": 1, "vision_config": {"hidden_act": "gelu"}}, {}),
        ({"model_type": "../llama"}, {"attention_bias": True}, {}),
        ({"model_type": ["llama"]}, {"attention_bias": True}, {}),
        (
            {"text_config": {"model_type": "gemma3_text", "num_hidden_layers": 2}},
            {"text_config": {"num_hidden_layers": 2, "attention_bias": True}},
            {"attention_bias": (False, True)},
        ),
    ],
)
def test_what_only_one_config_states_is_compared_with_the_class(
    one: dict[str, Any], other: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert differences(one, other) == expected
    assert differences(other, one) == {key: (theirs, ours) for key, (ours, theirs) in expected.items()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`b` has the shapes of `a`, other heads and another epsilon."""
    for seed, name in enumerate("ab"):
        tiny_llama(tmp_path / name, seed)
    path = tmp_path / "b/config.json"
    config = json.loads(path.read_text())
    changes = {
        "num_attention_heads": 2 * config["num_attention_heads"],
        "num_key_value_heads": 2 * config["num_key_value_heads"],
        "head_dim": config["hidden_size"] // config["num_attention_heads"] // 2,
        "rms_norm_eps": 0.01,
    }
    path.write_text(json.dumps({**config, **changes}))
    return tmp_path


def plan_of(recipe: dict[str, Any]) -> Plan:
    return make_plan(read_recipe(yaml.safe_dump(recipe)))


def test_an_average_is_warned_of(models: Path) -> None:
    each = [{"model": str(models / name), "parameters": {"weight": 0.5}} for name in "ab"]

    plan = plan_of({"merge_method": "linear", "models": each})

    [warning] = [warning for warning in plan.warnings if warning.code == "settings-differ"]
    assert "rms_norm_eps" in warning.message
    assert "num_attention_heads" in warning.message
    assert plan.ok


def test_layers_under_other_heads_are_refused(models: Path) -> None:
    part = {"sources": [{"model": str(models / "b"), "layer_range": [0, 2]}]}
    recipe = {"merge_method": "passthrough", "slices": [part]}

    [problem] = plan_of({**recipe, "base_model": str(models / "a")}).problems

    assert problem.code == "other-heads"
    assert plan_of(recipe).ok

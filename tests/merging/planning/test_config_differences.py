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

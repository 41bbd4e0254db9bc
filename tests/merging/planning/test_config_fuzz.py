"""Whatever a config says: a plan is made, or refused in words."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save_file

from merging import make_plan, read_recipe
from tests.checkpoints.test_fuzz import LENGTHS, fuzz

CONFIG: dict[str, Any] = {
    "architectures": ["XForCausalLM"],
    "model_type": "x",
    "num_hidden_layers": 2,
    "vocab_size": 8,
    "tie_word_embeddings": False,
    "layer_types": ["a", "b"],
    "rope_parameters": {"rope_theta": 1.0},
    "text_config": {"num_hidden_layers": 2, "vocab_size": 8},
    "quantization_config": None,
    "eos_token_id": [1, 2],
    "id2label": {"0": "x"},
    "sliding_window_pattern": 2,
    "first_k_dense_replace": 1,
}
LEAVES = st.sampled_from([None, True, False, -1, 0, 2, 10**9, 2**70, 1.5, float("nan"), "", "a", "2"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*CONFIG, "0", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)
CHANGES = st.dictionaries(st.sampled_from([*CONFIG]), VALUES, max_size=3)
WEIGHTS = {
    **{f"model.layers.{number}.mlp.up_proj.weight": torch.ones(8, 8) for number in range(2)},
    **{name: torch.ones(8, 8) for name in ("model.embed_tokens.weight", "lm_head.weight")},
    "model.norm.weight": torch.ones(8),
}


def check_plans(changes: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, change in enumerate(changes):
            path = Path(folder) / str(number)
            path.mkdir()
            save_file(WEIGHTS, path / "model.safetensors")
            (path / "config.json").write_text(json.dumps(CONFIG | change))
            paths.append(str(path))
        both = [{"model": path, "parameters": {"weight": 1}} for path in paths]
        stack = [
            {"sources": [{"model": path, "layer_range": [0, end]}]}
            for path, end in zip(paths, (2, 1), strict=True)
        ]
        for recipe in (
            {"merge_method": "linear", "models": both},
            {"merge_method": "passthrough", "slices": stack},
        ):
            plan = make_plan(read_recipe(yaml.safe_dump(recipe)))
            assert all(str(problem) for problem in (*plan.problems, *plan.warnings))


def test_a_list_where_another_parent_has_a_mapping() -> None:
    check_plans([{}, {"architectures": {"architectures": None, "sliding_window_pattern": [None, None]}}])


def test_a_setting_of_0_that_only_one_parent_has_where_no_setting_stands() -> None:
    check_plans([{}, {"architectures": {"first_k_dense_replace": 0}}])


@pytest.mark.parametrize("examples", LENGTHS)
def test_configs(examples: int) -> None:
    fuzz(check_plans, st.lists(CHANGES, min_size=2, max_size=2), examples // 2)

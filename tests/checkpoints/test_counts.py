"""Counts in a config that its weights cannot have."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoints.counts import check_counts
from checkpoints.problems import CheckpointError


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"n_layer": 5000},
        {"text_config": {"num_hidden_layers": 10**12}},
        {"depths": [2, 2, 10**7]},
        {"parts": [{"n_routed_experts": 10**6}]},
        {"num_attention_heads": 10**4000},
    ],
)
def test_a_config_that_counts_beyond_its_weights_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as refused:
        check_counts("mallory/model", config, tensors=300)

    [problem] = refused.value.problems
    assert problem.code == "count-beyond-weights"
    assert problem.values["key"] in str(config)


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"num_hidden_layers": 61, "n_routed_experts": 256, "vocab_size": 129280}, 91_000),
        ({"vocab_size_per_layer_input": 262_144, "max_position_embeddings": 10_485_760}, 600),
        ({"num_hidden_layers": 12}, 1),  # all layers share their tensors
        ({"num_local_experts": 512}, 10),  # in one tensor
        ({"num_hidden_layers": 2000}, 20_000),
        ({"layer_types": ["full_attention"] * 3, "num_hidden_layers": None, "layers": True}, 10),
    ],
)
def test_what_models_count_is_accepted(config: dict[str, Any], tensors: int) -> None:
    check_counts("honest/model", config, tensors)

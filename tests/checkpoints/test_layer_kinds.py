"""What configs say of layers, in every form, said again of another stack."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoints.layer_kinds import restacked

# A config, how many layers it speaks of, the layers of the new stack, and what changes in it.
FOLLOWS: dict[str, tuple[dict[str, Any], int, list[int], dict[str, Any]]] = {
    "an entry for each layer": ({"layer_types": list("abc")}, 3, [0, 1, 1, 2], {"layer_types": list("abbc")}),
    "numbers of layers": ({"moe_layers": [1, 3]}, 4, [0, 1, 1, 2, 3], {"moe_layers": [1, 2, 4]}),
    "numbers as text": ({"moe_layers": ["1", "3"]}, 4, [0, 1, 1, 2, 3], {"moe_layers": ["1", "2", "4"]}),
    "numbers from 1, inside a mapping": (
        {"linear": {"full_layers": [2, 4], "other_layers": [1, 3]}},
        4,
        [0, 1, 1, 2, 3],
        {"linear": {"full_layers": [2, 3, 5], "other_layers": [1, 4]}},
    ),
    "keyed by layer": ({"by": {"2": {"a": 1}}}, 3, [0, 2, 1, 2], {"by": {"1": {"a": 1}, "3": {"a": 1}}}),
    "keyed by a word and a number": (
        {"by": {"layer_0": 1}},
        2,
        [0, 1, 0],
        {"by": {"layer_0": 1, "layer_2": 1}},
    ),
    "letters": (
        {"hybrid_override_pattern": "M-M*"},
        4,
        [0, 1, 1, 2, 3],
        {"hybrid_override_pattern": "M--M*"},
    ),
    "a pattern that repeats": (
        {"block_types": ["r", "a"]},
        4,
        [0, 1, 1, 2, 3],
        {"block_types": ["r", "a", "a", "r", "a"]},
    ),
    "runs of patterns": (
        {"attention_types": [[["g", "l"], 2]]},
        4,
        [0, 1, 1, 2, 3],
        {"attention_types": [[["g", "l", "l", "g", "l"], 1]]},
    ),
    "how many come first": (
        {"first_k_dense_replace": 2},
        4,
        [0, 1, 0, 1, 2, 3],
        {"first_k_dense_replace": 4},
    ),
    "how many come last": ({"num_kv_shared_layers": 1}, 3, [0, 1, 2, 2], {"num_kv_shared_layers": 2}),
    "the last of the first": ({"moe_layer_end_index": 1}, 3, [0, 1, 1, 2], {"moe_layer_end_index": 2}),
    "up to the end": ({"moe_layer_end_index": -1}, 3, [0, 1, 1, 2], {}),
    "whole periods": ({"attention_interval": 2}, 4, [0, 1, 0, 1, 2, 3], {}),
    "sections of a rotary embedding": ({"rope": {"mrope_section": [1, 1, 2]}}, 3, [0, 1, 1, 2], {}),
    "tokens": ({"eos_token_id": [1, 2, 3]}, 3, [0, 1, 1, 2], {}),
    "sizes": ({"hidden_size": 4, "time_step_rank": 2, "rope_theta": 10000.0}, 3, [0, 1, 1, 2], {}),
    "another part's layers": (
        {"vision_config": {"num_hidden_layers": 3, "layer_types": list("abc")}},
        3,
        [0, 1, 1, 2],
        {},
    ),
}

# The same for what cannot follow, with why.
CANNOT: dict[str, tuple[dict[str, Any], int, list[int], str]] = {
    "a broken period": ({"full_attention_interval": 2}, 4, [0, 1, 1, 2, 3], "period"),
    "a step": ({"decoder_sparse_step": 2}, 4, [1, 2, 3], "period"),
    "first layers in the middle": ({"first_k_dense_replace": 1}, 3, [0, 1, 0, 1, 2], "first"),
    "a start in the middle": ({"moe_layer_start_index": 1}, 3, [0, 1, 0, 1, 2], "first"),
    "last layers in the middle": ({"num_kv_shared_layers": 1}, 3, [0, 1, 2, 1, 2], "last"),
}


@pytest.mark.parametrize("name", FOLLOWS)
def test_follows(name: str) -> None:
    config, count, layers, changes = FOLLOWS[name]

    result, conflicts = restacked(config, [(config, layer, count) for layer in layers], count)

    assert result == {**config, **changes}
    assert not conflicts


@pytest.mark.parametrize("name", CANNOT)
def test_cannot_follow(name: str) -> None:
    config, count, layers, why = CANNOT[name]
    [key] = config

    _, conflicts = restacked(config, [(config, layer, count) for layer in layers], count)

    assert conflicts == [(key, config[key], why)]


def test_layers_keep_what_their_own_config_says() -> None:
    one, other = {"layer_types": ["a", "a"]}, {"layer_types": ["b", "b", "b"]}

    result, conflicts = restacked(one, [(one, 0, 2), (other, 2, 3), (one, 1, 2)], 2)

    assert result == {"layer_types": ["a", "b", "a"]}
    assert not conflicts


def test_what_only_one_config_says_is_unclear() -> None:
    one, other = {"first_k_dense_replace": 1}, {}

    _, conflicts = restacked(one, [(one, 0, 2), (other, 1, 2)], 2)

    assert conflicts == [("first_k_dense_replace", 1, "unclear")]

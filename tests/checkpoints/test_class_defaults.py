"""Defaults that are read from the source of transformers are those that its classes have."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from checkpoints.class_defaults import class_defaults

USUAL = [
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "gemma3_text",
    "gpt_neox",
    "phi3",
    "olmo2",
    "granite",
]
TYPES = [pytest.param(USUAL, id="usual"), pytest.param(None, id="all", marks=pytest.mark.nightly)]


def has(config: Any, name: str, default: Any) -> Any:
    """A setting of a config; the rotary base may be one of a mapping, which models without such positions lack."""
    own = vars(config)  # asking the config for what differs by layer raises
    return (own.get("rope_parameters") or {}).get(name, default) if name == "rope_theta" else own[name]


@pytest.mark.parametrize("types", TYPES)
def test_they_are_the_classes_own(types: list[str] | None) -> None:
    wrong, count = [], 0
    for model_type in types or [*CONFIG_MAPPING]:
        try:
            config = CONFIG_MAPPING[model_type]()
        except Exception:  # it has required settings
            assert types is None
            continue
        for name, value in class_defaults(model_type).items():
            count += 1
            if isinstance(value, bool | int | float | str) and has(config, name, value) != value:
                wrong.append((model_type, name, value, has(config, name, value)))

    assert count > 10 * len(types or CONFIG_MAPPING)
    assert wrong == []


@pytest.mark.parametrize(
    "model_type", ["", "no_such_model", "../llama", "llama/../llama", "x" * 5000, None, 3, []]
)
def test_what_no_class_is_called_has_none(model_type: Any) -> None:
    assert class_defaults(model_type) == {}

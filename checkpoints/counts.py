"""The counts in a config against the weights: whether a model of it can be built at all.

A library that builds what a config says makes a module for each layer. A config that asks for a billion of them would
keep it busy forever; its weights, which have tensors for a few, show that it is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from checkpoints.problems import CheckpointError, Problem

# Settings that count modules, by the end of their names.
_COUNTS = re.compile(r"(^|_)(layers?|blocks?|depths?|stages?|experts?|heads?)$")
# Layers may share their tensors, and experts lie in one tensor together. No model has more of them than this without
# a tensor for each.
LEAST_MODULES = 1024


def check_counts(model: str, config: Mapping[str, Any], tensors: int) -> None:
    """Check that a config counts no more modules than the weights can have.

    Args:
        model: its name
        config: the content of config.json
        tensors: number of tensors of its weights

    Raises:
        CheckpointError: it does.
    """
    most = max(LEAST_MODULES, tensors)
    for key, count in _counts(config):
        if count > most:
            values = {
                "model": model,
                "key": key,
                "count": count if count < 2**63 else "2^63",
                "tensors": tensors,
            }
            raise CheckpointError(Problem("count-beyond-weights", values, model))


def _counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The settings that count modules, in all parts of a config."""
    parts: list[Any] = [config]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += (item for item in part if isinstance(item, dict | list))
            continue
        for key, value in part.items():
            if isinstance(value, dict | list):
                parts.append(value)
            for number in value if isinstance(value, list) else [value]:
                if type(number) is int and _COUNTS.search(str(key)):
                    yield str(key), number

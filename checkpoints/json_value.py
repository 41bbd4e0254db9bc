"""JSON of strangers' files: no deeper than any config is, and with text that can be written again."""

from __future__ import annotations

import json
from typing import Any

# Configs of transformers are some 6 deep, tokenizers some 10.
MAX_DEPTH = 64


class RepeatedKeyError(ValueError):
    """An object has a key twice.

    Attributes:
        key: the key
    """

    def __init__(self, key: str):
        super().__init__(f"the key {key!r} is there twice")
        self.key = key


def parse_json(data: bytes, *, keys_once: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        data: UTF-8.
        keys_once: whether a key that an object has twice is an error; else the last one counts.

    Raises:
        RepeatedKeyError: a key is there twice, and may not be.
        ValueError: it is not JSON, is nested more than `MAX_DEPTH` deep, or has half a surrogate pair in a string.
    """
    try:
        value = json.loads(data, object_pairs_hook=_with_keys_once if keys_once else None)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    if b"\\ud" in data.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RepeatedKeyError(key)
        found[key] = value
    return found

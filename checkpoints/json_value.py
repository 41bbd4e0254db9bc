"""JSON of strangers' files: no deeper than any config is, and with text that can be written again."""

from __future__ import annotations

import json
from typing import Any

# Configs of transformers are some 6 deep, tokenizers some 10.
MAX_DEPTH = 64


def parse_json(data: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, is nested more than `MAX_DEPTH` deep, or has half a surrogate pair in a string.
    """
    try:
        value = json.loads(data)
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

"""Results as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def as_json(found: Any, *, indent: int = 2) -> str:
    """Strict JSON: numbers that are not finite become null."""
    return json.dumps(_finite(found), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(found: Any) -> Any:
    match found:
        case float():
            return found if math.isfinite(found) else None
        case Mapping():
            return {key: _finite(value) for key, value in found.items()}
        case list() | tuple():
            return [_finite(value) for value in found]
    return found

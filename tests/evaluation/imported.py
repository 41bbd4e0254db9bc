"""What a process of its own has imported."""

from __future__ import annotations

import sys


def is_imported(module: str) -> bool:
    """Whether a module is there already."""
    return module in sys.modules

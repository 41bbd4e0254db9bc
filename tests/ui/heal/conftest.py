"""The model that is cut and healed."""

from __future__ import annotations

from tests.healing.conftest import parent

__all__ = ["parent"]

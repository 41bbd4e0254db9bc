"""The page's sentences in Korean."""

from __future__ import annotations

KOREAN: dict[str, str] = {}

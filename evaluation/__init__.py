"""Judges any checkpoint, wherever it came from. Knows nothing of merging.

`evaluation.public` lists what it offers, and is imported when that is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkpoints.lazy import offer

if TYPE_CHECKING:
    from evaluation.public import *  # noqa: F403

offer(__name__, functions=["difference", "influence", "perplexity"])

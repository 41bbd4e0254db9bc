"""Where tensors come from: a folder, a model on the Hub read by ranges, or one of these under an adapter.

`checkpoints.public` lists what it offers, and is imported when that is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkpoints.lazy import offer

if TYPE_CHECKING:
    from checkpoints.public import *  # noqa: F403

offer(__name__)

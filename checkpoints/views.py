"""The views that every stored model is opened under. To add one, add it to `VIEWS`."""

from __future__ import annotations

from collections.abc import Callable

from checkpoints.checkpoint import Checkpoint
from checkpoints.quantized.dequantized import dequantized

# Each returns a `View` of the models that it changes, and any other as it is. It sees what those before it made.
VIEWS: tuple[Callable[[Checkpoint], Checkpoint], ...] = (dequantized,)


def viewed(stored: Checkpoint) -> Checkpoint:
    """A stored model as it is read.

    Raises:
        CheckpointError: its tensors contradict each other.
    """
    for view in VIEWS:
        stored = view(stored)
    return stored

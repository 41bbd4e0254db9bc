"""Nearswap: take over what is nearly the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from merging.methods.method import merge_method
from merging.methods.parameters import Range

if TYPE_CHECKING:
    from torch import Tensor

# Two weights nearer than this count as this far apart.
SMALLEST_DISTANCE = 1e-6


def _nothing_taken(arguments: Mapping[str, Any]) -> int | None:
    return -1 if arguments["t"] == 0 else None


@merge_method(
    title="Nearswap",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    formula="θ = θ₀ + δ min(1, t / |δ|)",
    models=(1, 1),
    decided_by=_nothing_taken,
)
def nearswap(
    task_vectors: Sequence[Tensor], *, t: Annotated[float, Range(0.0, 0.01, step=0.0001, beyond=True)]
) -> Tensor:
    """Take the other model's weights where they are close to the base's, and keep the base elsewhere.

    Args:
        t: distance up to which a weight is taken as it is; beyond it, the change is limited to t
    """
    (change,) = task_vectors
    return change.mul_((t / change.abs().clamp_(min=SMALLEST_DISTANCE)).clamp_(0, 1))

"""Tensors of one model as they stand: the stuff that stacks of layers are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from merging.methods.method import merge_method
from merging.methods.parameters import PerModel

if TYPE_CHECKING:
    from torch import Tensor


def _unscaled(arguments: Mapping[str, Any]) -> int | None:
    return 0 if arguments["scale"] == [1.0] else None


@merge_method(
    title="Passthrough",
    paper="https://arxiv.org/abs/2312.15166",
    formula="θ = s θ₁",
    models=(1, 1),
    decided_by=_unscaled,
    coefficients=lambda arguments: arguments["scale"],
)
def passthrough(
    weights: Sequence[Tensor],
    *,
    scale: Annotated[list[float], PerModel(0.0, 2.0, step=0.05, beyond=True)] = 1.0,  # type: ignore[assignment]
) -> Tensor:
    """Copy each tensor from one model; with slices, stack layers (depth up-scaling).

    Args:
        scale: factor on each tensor
    """
    return weights[0].mul_(scale[0])

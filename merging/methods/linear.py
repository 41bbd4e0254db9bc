"""Weighted average of whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from merging.methods.arithmetic import shares, weighted_sum, weights_cancel
from merging.methods.method import merge_method
from merging.methods.parameters import Weight

if TYPE_CHECKING:
    from torch import Tensor


def _only_one_counts(arguments: Mapping[str, Any]) -> int | None:
    counting = [(i, weight) for i, weight in enumerate(arguments["weight"]) if weight != 0]
    if len(counting) == 1 and (arguments["normalize"] or counting[0][1] == 1):
        return counting[0][0]
    return None


def _coefficients(arguments: Mapping[str, Any]) -> Sequence[float]:
    weight: Sequence[float] = arguments["weight"]
    return shares(weight) if arguments["normalize"] else weight


@merge_method(
    title="Linear",
    paper="https://arxiv.org/abs/2203.05482",
    formula="θ = Σ wᵢ θᵢ / Σ wᵢ",
    decided_by=_only_one_counts,
    check=weights_cancel,
    coefficients=_coefficients,
)
def linear(weights: Sequence[Tensor], *, weight: Weight, normalize: bool = True) -> Tensor:
    """Weighted average of the models' weights (a model soup).

    Args:
        weight: weight of each model
        normalize: divide the weights by their sum
    """
    return weighted_sum(weights, _coefficients({"weight": weight, "normalize": normalize}))

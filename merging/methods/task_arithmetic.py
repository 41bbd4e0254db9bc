"""Sums of task vectors: what each fine-tune changed, added to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from merging.methods.arithmetic import SMALLEST_NORMAL, SMALLEST_SUM, scaled, total, weighted_sum
from merging.methods.method import merge_method
from merging.methods.parameters import Scaling, Weight
from merging.methods.sparsify import KeepLargest

if TYPE_CHECKING:
    from torch import Tensor

Election = Literal["weighted", "unweighted"]


def nothing_added(arguments: Mapping[str, Any]) -> int | None:
    """The base as it stands (-1), when no task vector counts."""
    return -1 if arguments["lambda_"] == 0 or not any(arguments["weight"]) else None


def coefficients(arguments: Mapping[str, Any]) -> list[float]:
    """The factor of each task vector in the sum."""
    weight, factor = arguments["weight"], arguments["lambda_"]
    divides = arguments["normalize"] and abs(sum(weight)) >= SMALLEST_SUM
    divisor = sum(weight) if divides else 1.0
    return [w * factor / divisor for w in weight]


@merge_method(
    title="Task Arithmetic",
    paper="https://arxiv.org/abs/2212.04089",
    formula="θ = θ₀ + λ Σ wᵢ δᵢ",
    ignored=("density", "rescale", "int8_mask"),
    decided_by=nothing_added,
    coefficients=coefficients,
)
def task_arithmetic(
    task_vectors: Sequence[Tensor], *, weight: Weight, normalize: bool = False, lambda_: Scaling = 1.0
) -> Tensor:
    """Add the weighted sum of the models' task vectors to the base.

    Args:
        weight: weight of each task vector; negative values subtract it
        normalize: divide by the sum of the weights
        lambda_: factor on the sum; 0 gives the base
    """
    given = {"weight": weight, "normalize": normalize, "lambda_": lambda_}
    return weighted_sum(task_vectors, coefficients(given))


@merge_method(
    title="TIES",
    paper="https://arxiv.org/abs/2306.01708",
    formula=(
        "θ = θ₀ + λ Σ wᵢ δ̂ᵢ / Σ wᵢ over the i whose wᵢ δ̂ᵢ has the sign of Σ wⱼ δ̂ⱼ, with δ̂ᵢ the "
        "largest entries of δᵢ"
    ),
    sparsify=KeepLargest(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)
def ties(
    task_vectors: Sequence[Tensor],
    *,
    weight: Weight,
    normalize: bool = True,
    lambda_: Scaling = 1.0,
    election: Election = "weighted",
) -> Tensor:
    """Trim each task vector to its largest entries, elect one sign per entry, and combine those that agree.

    Args:
        weight: weight of each task vector; negative values also reverse its vote on the sign
        normalize: divide each entry by the sum of the weights that agree with its sign
        lambda_: factor on the combined task vector
        election: whether a vote on the sign is the entry times the weight, or, as in the TIES paper, the entry alone
    """
    return scaled(elected_sum(task_vectors, weight, normalize, election), lambda_)


def elected_sum(
    task_vectors: Sequence[Tensor],
    weight: Sequence[float],
    normalize: bool,
    election: Election = "weighted",
) -> Tensor:
    """The weighted sum, entry by entry, of what has the sign of the sum of all votes; overwrites the vectors.

    Args:
        task_vectors: K float32 blocks
        weight: of each
        normalize: divide each entry by the sum of the weights that agree with its sign
        election: whether a vote is a vector times its weight, or the vector alone
    """
    votes, factors = list(task_vectors), list(weight)
    if election == "weighted":
        votes, factors = [scaled(v, w) for v, w in zip(votes, weight, strict=True)], [1.0] * len(votes)
    # Its sign is the elected one; a sum that cancels elects plus. (A sign of zeros and copysign cost more.)
    elected = total([votes[0].clone(), *votes[1:]]).add_(SMALLEST_NORMAL).sign_()
    aligned = [vote.mul_(elected).clamp_(min=0) for vote in votes]  # entries of the other sign drop out
    if not normalize:
        return weighted_sum(aligned, factors).mul_(elected)
    agreed = weighted_sum([vote.sign() for vote in aligned], weight)
    # Where nobody agreed there is nothing to divide.
    if min(weight) >= 0:
        agreed.clamp_(min=max(SMALLEST_NORMAL, min(w for w in (*weight, 1.0) if w > 0)))
    else:
        agreed.add_(agreed.eq(0))
    return weighted_sum(aligned, factors).div_(agreed).mul_(elected)

"""RAM: average what was changed over those that changed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from merging.methods.arithmetic import total, weighted_sum
from merging.methods.method import merge_method
from merging.methods.parameters import Range

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods.selection import Blocks


# mergekit takes any number for these.
Epsilon = Annotated[float, Range(0.0, 0.001, step=1e-6, beyond=True)]
Share = Annotated[float, Range(0.0, 1.0, beyond=True)]
PAPER = "https://arxiv.org/abs/2601.13572"


@merge_method(
    title="RAM",
    paper=PAPER,
    formula="θ = θ₀ + Σ δᵢ / n over the n models with |δᵢ| > ε",
)
def ram(task_vectors: Sequence[Tensor], *, epsilon: Epsilon = 1e-5) -> Tensor:
    """Average each entry over the models that changed it; what a single model changed is kept in full.

    Args:
        epsilon: changes up to this magnitude count as no change
    """
    changes, makers = _changes(task_vectors, epsilon)
    return total(changes).div_(makers.clamp_(min=1))


def _changes(task_vectors: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """What each model changed by more than epsilon, in place, and how many models changed each entry."""
    import torch

    changes = [torch.hardshrink(vector, epsilon, out=vector) for vector in task_vectors]
    return changes, total([change.sign().abs_() for change in changes])


def _overlaps(blocks: Blocks, *, epsilon: float, r: float, alpha: float) -> list[float]:
    """For each model how much larger its own changes become: more, the more of its changes others share."""
    shared: list[int] = []
    own: list[int] = []
    for _, vectors in blocks:
        changes, makers = _changes(vectors, epsilon)
        alone = makers.eq(1)
        changed = [int(change.count_nonzero()) for change in changes]
        unique = [int(change.mul_(alone).count_nonzero()) for change in changes]
        own = [a + b for a, b in zip(own or [0] * len(unique), unique, strict=True)]
        shared = [s + c - u for s, c, u in zip(shared or [0] * len(own), changed, unique, strict=True)]
    return [r * min(s / max(u, epsilon), alpha) if u else 0.0 for s, u in zip(shared, own, strict=True)]


@merge_method(
    title="RAM+ (TL)",
    paper=PAPER,
    formula=(
        "θ = θ₀ + Σ gᵢ δᵢ / n over the n models with |δᵢ| > ε, with gᵢ = 1 + r min(shared / own changes of i, α) "
        "where n = 1, else 1"
    ),
    measure=_overlaps,
)
def ramplus_tl(
    task_vectors: Sequence[Tensor],
    growth: Any,
    start: int,
    *,
    epsilon: Epsilon = 1e-5,
    r: Share = 0.1,
    alpha: Share = 0.2,
) -> Tensor:
    """Average each entry over the models that changed it; what a single model changed is amplified a little.

    Args:
        epsilon: changes up to this magnitude count as no change
        r: extra weight for entries only this model changed, per unit of its shared-to-unique ratio
        alpha: upper limit of the shared-to-unique ratio
    """
    changes, makers = _changes(task_vectors, epsilon)
    alone = makers.eq(1)
    more = weighted_sum([change.clone() for change in changes], growth).mul_(alone)
    return total(changes).div_(makers.clamp_(min=1)).add_(more)

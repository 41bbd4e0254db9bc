"""Consensus merging: what only one of the models needs is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from merging.methods.arithmetic import scaled, total
from merging.methods.method import merge_method
from merging.methods.parameters import Range, Scaling
from merging.methods.tsv import nothing_added

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    title="Consensus Task Arithmetic",
    paper="https://arxiv.org/abs/2405.07813",
    formula="θ = θ₀ + λ δ where |δᵢ| ≥ s |δ − δᵢ| for k or more of the i, else θ₀, with δ = Σ δᵢ",
    models=(2, None),
    decided_by=nothing_added,
    in_mergekit=False,
)
def consensus_ta(
    task_vectors: Sequence[Tensor],
    *,
    lambda_: Scaling,
    support: Annotated[float, Range(0.1, 1.0)] = 0.4,
    agreeing: Annotated[int, Range(1, 8, step=1)] = 2,
) -> Tensor:
    """Add up the task vectors, but only where the models' TALL-masks say that at least two need the entry.

    An entry supports a model whose own change there is as large as what all others changed, times a factor: the sum
    then still is that model's.

    Args:
        lambda_: factor on the sum, which grows with the number of models: use less for more models
        support: factor on the other models' changes; the larger it is, the fewer entries a model needs
        agreeing: how many models must need an entry
    """
    import torch

    whole = total([task_vectors[0].clone(), *task_vectors[1:]])
    supported, others = torch.zeros_like(whole), torch.empty_like(whole)
    for change in task_vectors:
        torch.sub(whole, change, out=others)
        supported.add_(change.abs_().ge_(others.abs_().mul_(support)))
    return scaled(whole.mul_(supported.ge_(agreeing)), lambda_)

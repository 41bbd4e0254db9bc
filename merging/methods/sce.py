"""SCE: select where the models differ, calculate how much each counts, erase what has the wrong sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from merging.methods.method import merge_method
from merging.methods.parameters import Fraction
from merging.methods.task_arithmetic import elected_sum

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods.selection import Blocks, Selection


class _Selection(NamedTuple):
    """Where the models differ enough, and how much each counts: its share of the squares there."""

    cut: Selection | None
    shares: list[float]


def _select(blocks: Blocks, *, select_topk: float) -> _Selection:
    from merging.methods.selection import Derived, cuts, square_sum

    cut = None
    if select_topk < 1:
        variance = Derived(blocks, lambda vectors, _: _variance(vectors))
        ((cut,),) = cuts(variance, [lambda differing: [int(differing * select_topk)]])
    found = [[square_sum(vector) for vector in _selected(vectors, cut, start)] for start, vectors in blocks]
    squares = [sum(of_one) for of_one in zip(*found, strict=True)]
    whole = sum(squares)
    return _Selection(cut, [s / whole if whole else 1 / len(squares) for s in squares])


def _variance(vectors: Sequence[Tensor]) -> Tensor:
    """The variance over the models, times their number; leaves the vectors alone.

    By differences to the first, so that it is exactly zero where the models agree.
    """
    import torch

    first, *others = vectors
    if not others:
        return torch.zeros_like(first)
    whole = others[0] - first
    squares = whole * whole
    difference = torch.empty_like(first)
    for other in others[1:]:
        torch.sub(other, first, out=difference)
        whole.add_(difference)
        squares.addcmul_(difference, difference)
    return squares.addcmul_(whole, whole, value=-1 / len(vectors)).clamp_(min=0)


def _selected(vectors: Sequence[Tensor], cut: Selection | None, start: int) -> Sequence[Tensor]:
    """The vectors, in place, with zeros where the models differ too little."""
    if cut is None:
        return vectors
    chosen = cut.chosen(_variance(vectors), start)
    return [vector.mul_(chosen) for vector in vectors]


@merge_method(
    title="SCE",
    paper="https://arxiv.org/abs/2408.07990",
    formula=(
        "θ = θ₀ + Σ wᵢ δ̂ᵢ / Σ wᵢ over the i whose δ̂ᵢ has the sign of Σ δ̂ⱼ, with δ̂ᵢ = δᵢ where the δ "
        "vary most, and wᵢ = ‖δ̂ᵢ‖² / Σ ‖δ̂ⱼ‖²"
    ),
    measure=_select,
    ignored=("int8_mask",),
    decided_by=lambda arguments: -1 if arguments["select_topk"] == 0 else None,
)
def sce(task_vectors: Sequence[Tensor], selection: Any, start: int, *, select_topk: Fraction = 1.0) -> Tensor:
    """Keep the entries on which the models differ most, weight models by their squares, and elect one sign per entry.

    Args:
        select_topk: share to keep of the entries on which the models differ at all, largest variance first
    """
    selected = _selected(task_vectors, selection.cut, start)
    return elected_sum(selected, selection.shares, normalize=True, election="unweighted")

"""Arcee Fusion: take over the changes that matter most, by size and by what they do to the distribution of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from merging.methods.method import merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods.selection import Blocks

# Added to each probability.
SMALLEST_PROBABILITY = 1e-8
# Elements whose divergence is computed at once.
AT_ONCE = 32 * 1024


class _Importance(NamedTuple):
    """What makes a change important.

    Args:
        divergences: of each row, shape (rows,)
        row: elements in a row
        threshold: a change is important where its magnitude times its row's divergence reaches this
    """

    divergences: Tensor
    row: int
    threshold: float

    def of(self, pair: Sequence[Tensor], start: int) -> Tensor:
        """The magnitude of each change times its row's divergence; leaves the blocks alone."""
        base, model = pair
        change = model.sub(base).abs_()
        first = start // self.row
        rows = change.view(-1, self.row)
        rows.mul_(self.divergences[first : first + len(rows), None])
        return change


def _measure(blocks: Blocks) -> _Importance:
    import torch

    from merging.methods.selection import Derived, cuts

    divergences = torch.cat([_divergence(pair, blocks.row) for _, pair in blocks])
    importance = _Importance(divergences, blocks.row, 0.0)
    # A model's infinities and NaN are not among those that are ordered; the run counts and reports them.
    changes = Derived(blocks, lambda pair, start: importance.of(pair, start).nan_to_num_(0.0, 0.0))
    places = [blocks.size - int(share * (blocks.size - 1)) for share in (0.25, 0.5, 0.75)]
    first, middle, third = (cut.threshold for cut in cuts(changes, [places])[0])
    return importance._replace(threshold=middle + 1.5 * (third - first))


def _divergence(pair: Sequence[Tensor], row: int) -> Tensor:
    """The Kullback-Leibler divergence of the base's softmax from the model's, row by row.

    In float64: between fine-tunes it is of the size of float32's rounding. Few rows at once stay in the cache.
    """
    import torch

    step = max(AT_ONCE // row, 1) * row
    found = []
    for start in range(0, len(pair[0]), step):
        before, after = (
            block[start : start + step].view(-1, row).double().softmax(dim=1).add_(SMALLEST_PROBABILITY)
            for block in pair
        )
        found.append(before.div_(after).log_().mul_(after).sum(dim=1).neg_().clamp_(min=0).float())
    return torch.cat(found)


@merge_method(
    title="Arcee Fusion",
    paper="https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration",
    formula="θ = θ₁ where a = |θ₁ − θ₀| KL(row of θ₁ ‖ row of θ₀) ≥ median of a + 1.5 (Q₃ − Q₁), else θ₀",
    models=(2, 2),
    base="first",
    measure=_measure,
    whole_rows=True,
)
def arcee_fusion(weights: Sequence[Tensor], importance: Any, start: int) -> Tensor:
    """Take the other model's important changes, and keep the base elsewhere.

    Important is a change whose magnitude, times the divergence between the softmax of its row before and after, lies
    above the median by one and a half times the distance of the quartiles.
    """
    base, model = weights
    chosen = importance.of(weights, start).ge_(importance.threshold)
    return model.mul_(chosen).add_(base.mul_(chosen.neg_().add_(1)))

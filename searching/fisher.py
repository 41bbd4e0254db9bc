"""Fisher merging: an average in which each weight counts as much as its model depends on it.

The diagonal of the Fisher information is estimated by the mean square of the gradients of each document's likelihood
(https://arxiv.org/abs/2111.09832): W = Σ Fᵢ Wᵢ / Σ Fᵢ, entry by entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.nn import Parameter

from evaluation import LanguageModel
from evaluation.error import memory_named
from evaluation.perplexity import Logits, ScoringPlan
from searching.gradient import Passage, backward, hooked
from searching.live_merge import LiveMerge

# Added to the information, so that what no model depends on is averaged plainly.
SMALLEST = 1e-10


def fisher(
    live: LiveMerge,
    parents: Sequence[LanguageModel],
    texts: Sequence[Sequence[str]],
    *,
    damping: float = SMALLEST,
) -> None:
    """Rewrite a live merge as the average of its parents, weighted by their Fisher information.

    Memory: four times the live model, beside the parents. The next `update` makes the merge that of its recipe again.

    Args:
        live: the merge
        parents: K models of the same shape
        texts: documents for each of them
        damping: added to the information of each weight
    """
    merged = dict(live.model.network.named_parameters())
    weighted = {name: torch.zeros_like(weights) for name, weights in merged.items()}
    whole = {name: torch.zeros_like(weights) for name, weights in merged.items()}
    for parent, documents in zip(parents, texts, strict=True):
        own = dict(parent.network.named_parameters())
        for name, found in information(live, parent, documents).items():
            found += damping
            weighted[name].addcmul_(found, own[name].detach().to(found))
            whole[name].add_(found)
    live.forget_written()
    with torch.no_grad():
        for name, weights in merged.items():
            weights.copy_(weighted[name].div_(whole[name]))


def information(live: LiveMerge, model: LanguageModel, texts: Sequence[str]) -> dict[str, Tensor]:
    """The diagonal of a model's Fisher information, by the name of its parameters, in float32.

    Args:
        live: whose `check` ends the work
        texts: documents; each window of them is one observation
    """
    named = dict(model.network.named_parameters())
    places = {parameter: name for name, parameter in named.items()}
    sums = {name: torch.zeros_like(weights, dtype=torch.float32) for name, weights in named.items()}
    gradients: dict[str, Tensor] = {}

    def take(weights: Parameter) -> None:
        assert weights.grad is not None
        # Of tied weights, and of a head that is applied in parts, gradients come in parts.
        name = places[weights]
        gradients[name] = weights.grad + gradients.get(name, 0)
        weights.grad = None

    work = ScoringPlan.planned(model, texts, None, None, None, None, None)
    windows, how = list(chain.from_iterable(work.batches)), Logits.of(model)
    with hooked(list(named.values()), take):
        for window in windows:
            live.check()
            one = Passage(work.tokens_of(window).long().to(model.device), window.scored, 1.0)
            with memory_named(model.name, "doing-scoring"):
                backward(model, None, [one], how)
            for name, gradient in gradients.items():
                sums[name].addcmul_(gradient.float(), gradient.float(), value=1 / len(windows))
            gradients.clear()
    return sums

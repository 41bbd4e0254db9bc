"""DARE: most of what a fine-tune changed can be dropped at random, if the rest is made larger."""

from __future__ import annotations

from merging.methods.method import merge_method
from merging.methods.sparsify import KeepAtRandom
from merging.methods.task_arithmetic import coefficients, nothing_added, task_arithmetic, ties

PAPER = "https://arxiv.org/abs/2311.03099"

merge_method(
    name="dare_linear",
    title="DARE",
    paper=PAPER,
    formula="θ = θ₀ + λ Σ wᵢ δ̂ᵢ, with δ̂ᵢ = δᵢ / d with chance d, else 0",
    summary="Drop part of each task vector at random, rescale the rest, and add the weighted sum to the base.",
    sparsify=KeepAtRandom(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
    coefficients=coefficients,
)(task_arithmetic)

merge_method(
    name="dare_ties",
    title="DARE-TIES",
    paper=PAPER,
    formula=(
        "θ = θ₀ + λ Σ wᵢ δ̂ᵢ over the i whose wᵢ δ̂ᵢ has the sign of Σ wⱼ δ̂ⱼ, with δ̂ᵢ = δᵢ / d with "
        "chance d, else 0"
    ),
    summary=(
        "Drop part of each task vector at random, rescale the rest, "
        "elect one sign per entry, combine those that agree."
    ),
    sparsify=KeepAtRandom(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
    defaults={"normalize": False},
)(ties)

"""DELLA: drop changes at random, small ones more probably than large ones."""

from __future__ import annotations

from merging.methods.method import merge_method
from merging.methods.sparsify import KeepByRank
from merging.methods.task_arithmetic import coefficients, nothing_added, task_arithmetic, ties

PAPER = "https://arxiv.org/abs/2406.11617"

merge_method(
    name="della",
    title="DELLA",
    paper=PAPER,
    formula=(
        "θ = θ₀ + λ Σ wᵢ δ̂ᵢ / Σ wᵢ over the i whose wᵢ δ̂ᵢ has the sign of Σ wⱼ δ̂ⱼ, with δ̂ᵢ = δᵢ / p "
        "with chance p, else 0, and p from d − ε to d + ε by rank in the row"
    ),
    summary=(
        "Drop entries of each task vector, small ones with higher probability, "
        "elect one sign per entry, combine the rest."
    ),
    sparsify=KeepByRank(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
)(ties)

merge_method(
    name="della_linear",
    title="DELLA without election",
    paper=PAPER,
    formula=(
        "θ = θ₀ + λ Σ wᵢ δ̂ᵢ, with δ̂ᵢ = δᵢ / p with chance p, else 0, and p from d − ε to d + ε by rank "
        "in the row"
    ),
    summary=(
        "Drop entries of each task vector, small ones with higher probability, "
        "and add the weighted sum to the base."
    ),
    sparsify=KeepByRank(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
    coefficients=coefficients,
)(task_arithmetic)

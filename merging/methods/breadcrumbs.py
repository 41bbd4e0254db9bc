"""Model breadcrumbs: neither the largest changes, which are outliers, nor the smallest, which are noise."""

from __future__ import annotations

from merging.methods.method import merge_method
from merging.methods.sparsify import KeepMiddle
from merging.methods.task_arithmetic import coefficients, nothing_added, task_arithmetic, ties

PAPER = "https://arxiv.org/abs/2312.06795"

merge_method(
    name="breadcrumbs",
    title="Breadcrumbs",
    paper=PAPER,
    formula="θ = θ₀ + λ Σ wᵢ δ̂ᵢ, with δ̂ᵢ = δᵢ without its largest γ and its smallest 1 − d − γ",
    summary=(
        "Drop the largest and smallest entries of each task vector, "
        "and add the weighted sum of the rest to the base."
    ),
    sparsify=KeepMiddle(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
    coefficients=coefficients,
)(task_arithmetic)

merge_method(
    name="breadcrumbs_ties",
    title="Breadcrumbs with TIES",
    paper=PAPER,
    formula=(
        "θ = θ₀ + λ Σ wᵢ δ̂ᵢ over the i whose wᵢ δ̂ᵢ has the sign of Σ wⱼ δ̂ⱼ, with δ̂ᵢ = δᵢ without its "
        "largest γ and its smallest 1 − d − γ"
    ),
    summary=(
        "Drop the largest and smallest entries of each task vector, "
        "elect one sign per entry, combine those that agree."
    ),
    sparsify=KeepMiddle(),
    ignored=("int8_mask",),
    decided_by=nothing_added,
    defaults={"normalize": False},
)(ties)

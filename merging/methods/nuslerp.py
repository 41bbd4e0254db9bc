"""NuSLERP: SLERP with a weight for each model, of models or of what they changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merging.methods.method import Over, merge_method
from merging.methods.parameters import Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Norms count as at least this, and weights whose sum is nearer to zero as equal.
SMALLEST_NORM = 1e-7
SMALLEST_SUM = 1e-6
# Squares of sines up to this are those of one line.
SMALLEST_SINE_SQUARED = 1e-16


def _second_share(weight: list[float]) -> float:
    """How far to go from the first model to the second."""
    return weight[1] / sum(weight) if abs(sum(weight)) >= SMALLEST_SUM else 0.5


def _either_end(arguments: Mapping[str, Any]) -> int | None:
    return {0.0: 0, 1.0: 1}.get(_second_share(arguments["weight"]))


def _over(arguments: Mapping[str, Any]) -> Over:
    if arguments["nuslerp_flatten"]:
        return "tensor"
    return "columns" if arguments["nuslerp_row_wise"] else "rows"


@merge_method(
    title="NuSLERP",
    paper="https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md",
    formula=(
        "θ = [sin((1 − t)Ω) θ₁ + sin(tΩ) θ₂] / sin Ω, with t = w₂ / (w₁ + w₂); with a base, θ₀ + the "
        "same of δ₁ and δ₂"
    ),
    models=(2, 2),
    base="optional",
    over=_over,
    decided_by=_either_end,
)
def nuslerp(
    weight_products: NDArray[Any],
    *,
    weight: Weight,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> NDArray[Any]:
    """Spherical interpolation by weights: between two models or, with a base, between their task vectors.

    Args:
        weight: weight of each model
        nuslerp_flatten: treat each tensor as one vector; otherwise, each of its rows
        nuslerp_row_wise: without nuslerp_flatten, treat each column as a vector instead of each row
    """
    import numpy as np

    t = _second_share(weight)
    norms = np.maximum(np.sqrt(weight_products[[0, 1], [0, 1]]), SMALLEST_NORM)
    cosine = np.clip(weight_products[0, 1] / (norms[0] * norms[1]), -1, 1)
    line = 1 - cosine**2 <= SMALLEST_SINE_SQUARED
    angle = np.where(line, 1.0, np.arccos(cosine))
    arc = np.stack([np.sin((1 - t) * angle), np.sin(t * angle)]) / np.sin(angle)
    chord = np.stack([np.full_like(angle, 1 - t), np.full_like(angle, t)])
    return np.where(line, chord, arc)

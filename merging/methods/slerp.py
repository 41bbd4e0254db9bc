"""Interpolation between two models along the arc between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merging.methods.method import merge_method
from merging.methods.parameters import Fraction

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Two directions closer than this are joined by a straight line: the arc's formula divides by the sine of a
# tiny angle. Siblings fine-tuned from one base nearly always lie this close.
NEARLY_PARALLEL = 0.9995
SMALLEST_NORM = 1e-8


def _either_end(arguments: Mapping[str, Any]) -> int | None:
    return {0.0: 0, 1.0: 1}.get(arguments["t"])


@merge_method(
    title="SLERP",
    paper="https://en.wikipedia.org/wiki/Slerp",
    formula="θ = [sin((1 − t)Ω) θ₀ + sin(tΩ) θ₁] / sin Ω, with Ω the angle between θ₀ and θ₁",
    models=(2, 2),
    base="first",
    ignored=("embed_slerp",),
    decided_by=_either_end,
)
def slerp(weight_products: NDArray[Any], *, t: Fraction) -> list[float]:
    """Spherical interpolation between two models: along the arc, not the straight line.

    Args:
        t: position between the base model (0) and the other model (1)
    """
    norms = [math.sqrt(weight_products[i, i]) for i in (0, 1)]
    if min(norms) <= SMALLEST_NORM:
        return [1 - t, t]
    cosine = float(weight_products[0, 1]) / (norms[0] * norms[1])
    if abs(cosine) > NEARLY_PARALLEL:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]

"""Spherical interpolation between any number of models, around their mean direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from merging.methods.arithmetic import weights_cancel
from merging.methods.method import merge_method
from merging.methods.parameters import Range, Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _alone(arguments: Mapping[str, Any]) -> int | None:
    return 0 if len(arguments["weight"]) == 1 else None


def _cancel(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    return weights_cancel({**arguments, "normalize": arguments["normalize_weights"]})


@merge_method(
    title="Multi-SLERP",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea/",
    formula="θ = (Σ wᵢ ‖θᵢ‖) m / ‖m‖, with m = Σ wᵢ θᵢ / ‖θᵢ‖ and Σ wᵢ = 1; with a base, θ₀ + the same of δᵢ",
    base="optional",
    decided_by=_alone,
    check=_cancel,
)
def multislerp(
    weight_products: NDArray[Any],
    *,
    weight: Weight,
    normalize_weights: bool = True,
    eps: Annotated[float, Range(0.0, 0.001, step=1e-6, clamps=True)] = 1e-8,
) -> list[float]:
    """Spherical interpolation of any number of models or, with a base, of their task vectors.

    The result has the mean of their directions, and their mean length. The step along the sphere that the source
    takes from there is the mean of what leads to each model, and that is nothing: the mean lies in the middle.

    Args:
        weight: weight of each model
        normalize_weights: divide the weights by their sum
        eps: if the mean direction is shorter than this, the models cancel out and their weighted sum is used
    """
    import numpy as np

    if len(weight) == 1:
        return [1.0]
    share = np.array(weight) / (sum(weight) if normalize_weights else 1.0)
    norms = np.sqrt(np.diag(weight_products))
    units = np.divide(1, norms + eps, out=np.zeros_like(norms), where=norms > 0)

    def length(sum_of: NDArray[Any]) -> float:
        return float(np.sqrt(max(sum_of @ weight_products @ sum_of, 0.0)))

    mean = share * units
    if length(mean) <= eps:
        return share.tolist()  # type: ignore[no-any-return]
    return (mean / length(mean) * (share @ norms)).tolist()  # type: ignore[no-any-return]

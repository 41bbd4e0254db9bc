"""The mean of models on the sphere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from merging.methods.method import merge_method
from merging.methods.parameters import Range

if TYPE_CHECKING:
    from numpy.typing import NDArray


@merge_method(
    title="Karcher mean",
    paper="https://arxiv.org/abs/2603.04972",
    formula="θ = r u, with ‖u‖ = 1 where Σ ∠(u, θᵢ)² is least, and r the mean of ‖θᵢ‖",
)
def karcher(
    weight_products: NDArray[Any],
    *,
    max_iter: Annotated[int, Range(1, 100, step=1, clamps=True)] = 10,
    tol: Annotated[float, Range(1e-6, 1e-2, step=1e-6, clamps=True)] = 1e-5,
) -> list[float]:
    """The mean direction of all models on the sphere, at their average length.

    Every vector on the way is a sum of the models, so that the search works on K coefficients and on the dot
    products between the models, and never on the tensors.

    Args:
        max_iter: maximum number of iterations
        tol: stop when a step is smaller than this angle, in radians; tensors with a smaller norm are ignored
    """
    import numpy as np

    norms = np.sqrt(np.diag(weight_products))
    counts = norms > tol
    coefficients = np.zeros(len(norms))
    if not counts.any():
        return coefficients.tolist()
    cosines_between = weight_products[np.ix_(counts, counts)] / np.outer(norms[counts], norms[counts])
    share = 1 / counts.sum()

    def length(direction: NDArray[Any]) -> float:
        return float(np.sqrt(max(direction @ cosines_between @ direction, 0.0)))

    mean = np.full(counts.sum(), share)
    if length(mean) < tol:  # the directions cancel: begin with the first
        mean = np.eye(counts.sum())[0]
    mean /= length(mean)
    for _ in range(max_iter):
        cosines = np.clip(cosines_between @ mean, -1, 1)
        angles = np.arccos(cosines)
        # How far each model pulls, along the sphere; one that lies on the mean, or opposite to it, does not.
        sines = np.sin(angles)
        pulls = share * np.divide(
            angles, sines, out=np.zeros_like(angles), where=(angles >= tol) & (sines > 0)
        )
        tangent = pulls - (pulls @ cosines) * mean
        step = length(tangent)
        if step < tol:
            break
        mean = np.cos(step) * mean + np.sin(step) * tangent / step
        mean /= length(mean)
    coefficients[counts] = mean * norms.mean() / norms[counts]
    return coefficients.tolist()

"""Model Stock: how far to go from the base towards the mean of its fine-tunes, told by the angle between them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from merging.methods.method import Over, merge_method

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below this the formula's denominator counts as zero: fine-tunes that point away from each other have no mean
# worth going to, and the base is the result.
SMALLEST_DENOMINATOR = 1e-6


def _over(arguments: Mapping[str, Any]) -> Over:
    return "rows" if arguments["filter_wise"] else "tensor"


@merge_method(
    title="Model Stock",
    paper="https://arxiv.org/abs/2403.19522",
    formula="θ = θ₀ + t Σ δᵢ / N, with t = N cos Ω / (1 + (N − 1) cos Ω) and cos Ω the mean cosine between the δᵢ",
    models=(2, None),
    over=_over,
)
def model_stock(task_vector_products: NDArray[Any], *, filter_wise: bool = False) -> NDArray[Any]:
    """Move from the base towards the mean of the fine-tunes: the more their changes agree, the further.

    The ratio t = N cos / (1 + (N - 1) cos), with the mean cosine between the changes, is the paper's equation 7.

    Args:
        filter_wise: measure angles row by row instead of over the whole tensor
    """
    import numpy as np

    number = len(task_vector_products)
    norms = np.sqrt(np.stack([task_vector_products[i, i] for i in range(number)]))
    cosine = 0.0
    for i, j in combinations(range(number), 2):
        size = norms[i] * norms[j]
        apart = np.divide(task_vector_products[i, j], size, out=np.zeros_like(size), where=size > 0)
        cosine += np.clip(apart, -1, 1) / (number * (number - 1) / 2)
    denominator = 1 + (number - 1) * np.asarray(cosine)
    goes = np.abs(denominator) >= SMALLEST_DENOMINATOR
    ratio = np.divide(number * cosine, denominator, out=np.zeros_like(denominator), where=goes)
    return np.stack([ratio / number] * number)

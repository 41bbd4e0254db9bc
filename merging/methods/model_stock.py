"""Model Stock: how far to go from the base towards the mean of its fine-tunes, told by the angle between them."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

from merging.methods.method import merge_method

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below this the formula's denominator counts as zero: fine-tunes that point away from each other have no mean
# worth going to, and the base is the result.
SMALLEST_DENOMINATOR = 1e-6


@merge_method(title="Model Stock", paper="https://arxiv.org/abs/2403.19522", models=(2, None))
def model_stock(task_vector_products: NDArray[Any]) -> list[float]:
    """Go from the base towards the mean of the fine-tunes, the further the more their changes point one way.

    The ratio t = N cos / (1 + (N - 1) cos), with the mean cosine between the changes, is the paper's equation 7.
    """
    number = len(task_vector_products)
    norms = [math.sqrt(task_vector_products[i, i]) for i in range(number)]
    cosines = [
        task_vector_products[i, j] / (norms[i] * norms[j]) if norms[i] * norms[j] else 0.0
        for i, j in combinations(range(number), 2)
    ]
    cosine = sum(min(max(float(c), -1.0), 1.0) for c in cosines) / len(cosines)
    denominator = 1 + (number - 1) * cosine
    ratio = number * cosine / denominator if abs(denominator) >= SMALLEST_DENOMINATOR else 0.0
    return [ratio / number] * number

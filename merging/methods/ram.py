"""RAM: average what was changed over those that changed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from merging.methods.arithmetic import total
from merging.methods.method import merge_method
from merging.methods.parameters import Range

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(title="RAM", paper="https://arxiv.org/abs/2601.13572")
def ram(
    task_vectors: Sequence[Tensor], *, epsilon: Annotated[float, Range(0.0, 0.001, step=1e-6)] = 1e-5
) -> Tensor:
    """Average each change over the models that made one there; what a single model changed stays whole.

    Args:
        epsilon: changes up to this magnitude count as none
    """
    import torch

    changes = [torch.hardshrink(vector, epsilon, out=vector) for vector in task_vectors]
    makers = total([change.sign().abs_() for change in changes])
    return total(changes).div_(makers.clamp_(min=1))

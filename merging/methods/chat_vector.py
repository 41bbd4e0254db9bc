"""Chat Vector: what a chat model learnt beyond its base, given to another model that grew from that base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from merging.methods.method import merge_method
from merging.methods.parameters import OnlyFor, Scaling

if TYPE_CHECKING:
    from torch import Tensor


def _left_alone(arguments: Mapping[str, Any]) -> int | None:
    return 0 if arguments["weight"] == 0 or not arguments["everywhere"] else None


def _coefficients(arguments: Mapping[str, Any]) -> list[float]:
    return [1.0, arguments["weight"] if arguments["everywhere"] else 0.0]


@merge_method(
    title="Chat Vector",
    paper="https://arxiv.org/abs/2310.04799",
    formula="θ = θ₁ + w (θ₂ − θ₀)",
    models=(2, 2),
    target_first=True,
    decided_by=_left_alone,
    coefficients=_coefficients,
    in_mergekit=False,
)
def chat_vector(
    task_vectors: Sequence[Tensor],
    *,
    weight: Scaling = 1.0,
    everywhere: Annotated[bool, OnlyFor(("embedding", "norm"))] = False,
) -> Tensor:
    """Add to the first model what the second, a chat model, learned beyond the base: first + weight * (second - base).

    Args:
        weight: how much of what the chat model learned to add
        everywhere: include embeddings, output head and norms, which otherwise stay as in the first model
    """
    target, chat = task_vectors
    return target.add_(chat, alpha=weight) if everywhere else target

"""A mixture of experts: one model whose layers choose, for each token, among the MLPs of several dense models.

    base_model: org/base
    gate_mode: router
    experts:
      - source_model: org/coder
        positive_prompts: ["Write a Python function that"]
      - source_model: org/base+org/poetry-adapter
        positive_prompts: ["Write a poem about"]
    dtype: bfloat16

This is the language of mergekit-moe, with three keys more: `gate_mode: router`, `shared_weights` and `seed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from checkpoints.problems import Place

if TYPE_CHECKING:
    from merging.recipe.recipe import ModelReference

# Where the rows of routers come from: from the hidden states of prompts, from their embeddings, or from chance.
COMPUTED = ("router", "hidden", "hidden_last", "hidden_avg", "cheap_embed")
RANDOM = ("random", "uniform_random")
GATE_MODES = (*COMPUTED, *RANDOM)
# Where the weights outside the experts come from.
SHARED_WEIGHTS = ("base", "average")


@dataclass(frozen=True)
class Expert:
    """A model whose MLPs become one expert of each layer.

    Args:
        model: it
        positive_prompts: texts of the kind that should reach it
        negative_prompts: texts that should not
        noise_scale: standard deviation of the noise that is added to its weights
        residual_scale: factor on what it adds to the hidden states
    """

    model: ModelReference
    positive_prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
    noise_scale: float = 0.0
    residual_scale: float = 1.0
    where: Place | str = field(default="", compare=False)


@dataclass(frozen=True)
class Mixture:
    """What the experts are, and how the routers find them.

    Args:
        experts: of which the router of a layer chooses
        shared_experts: that every token passes through
        gate_mode: one of GATE_MODES
        experts_per_token: how many experts a token passes through, besides the shared ones
        architecture: of the result, or the beginning of its name; None: the one that suits the base
        shared_weights: one of SHARED_WEIGHTS: what the attention, embeddings and norms are taken from
    """

    experts: tuple[Expert, ...]
    shared_experts: tuple[Expert, ...] = ()
    gate_mode: str = "hidden"
    experts_per_token: int = 2
    architecture: str | None = None
    shared_weights: str = "base"

    @property
    def is_computed(self) -> bool:
        """Whether the routers are computed from prompts."""
        return self.gate_mode in COMPUTED

    def all_experts(self) -> Iterator[Expert]:
        yield from self.experts
        yield from self.shared_experts

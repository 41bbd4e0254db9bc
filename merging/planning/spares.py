"""Tensors that only some saves of a model have, and that it works without.

A loader leaves the weights of multi-token prediction out, so a fine-tune that it saved has none. The same holds for
poolers, heads of other tasks, and the schedules of a diffusion model. What a model cannot work without is its layers,
its table of embeddings, its norms and its head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from checkpoints.architecture import DERIVED, Layout, role_of


def is_spare(
    name: str, having: Collection[str], lacking: Collection[str], embedding: str | None, *, has_layers: bool
) -> bool:
    """Whether a model that lacks a tensor works without it.

    Args:
        name: of the tensor, outside the layers
        having: names of the tensors outside the layers of a model that has it, and the prefix of the layers
        lacking: the same of the model that lacks it
        embedding: the name of the table of embeddings
        has_layers: whether they are models whose layers are known; of others less is known of what they need
    """
    if not has_layers and 2 * len({*having} & {*lacking}) < min(len(having), len(lacking)):
        return False
    if group := _group(name, lacking):
        return embedding is None or not embedding.startswith(group)
    return "." not in name or (has_layers and role_of(name) == "layer")


def is_apart(name: str, lacking: Collection[str]) -> bool:
    """Whether a tensor is one by itself, or in a part of a model that another one lacks as a whole."""
    return "." not in name or _group(name, lacking) is not None


def _group(name: str, lacking: Collection[str]) -> str | None:
    """The beginning of the names of a part, of several modules, of which none is in these names."""
    words = name.split(".")
    groups = (".".join(words[:count]) + "." for count in range(1, len(words) - 1))
    return next((group for group in groups if not any(other.startswith(group) for other in lacking)), None)


def spares(having: Layout, lacking: Layout) -> Iterator[str]:
    """The names of a model's tensors that another one of the same names lacks, and works without."""
    ours, theirs = _outside(having), _outside(lacking)
    has_layers = having.main.stack is not None
    for name in ours:
        derived = DERIVED.search(name) or lacking.tied(name)
        if name not in theirs and (
            derived or is_spare(name, ours, theirs, having.embedding, has_layers=has_layers)
        ):
            yield name


def _outside(layout: Layout) -> dict[str, None]:
    """The names outside the layers, and the prefixes of the layers."""
    stacks = [module.stack for module in layout.modules.values() if module.stack]
    names = [name for name in layout.names if not any(stack.split(name) for stack in stacks)]
    return dict.fromkeys([*names, *(stack.prefix for stack in stacks)])

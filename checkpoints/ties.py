"""Names that share their bytes in a file: which are one tensor, and which are two that are equal for now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from checkpoints.architecture import INPUT_EMBEDDING, OUTPUT_HEAD, says_tied
from checkpoints.formats.header import TensorHeader
from checkpoints.loading import Loading, load


def without_ties(tensors: dict[str, TensorHeader], config: Mapping[str, Any]) -> dict[str, TensorHeader]:
    """The tensors without those that are another one under a second name.

    `torch.save` keeps a tensor once that has several names. The class of the model says which names it ties. Where it
    is not known, a config that speaks of ties means tables of embeddings and heads. The others are two.
    """
    shared = _shared(tensors.values())
    said = says_tied(config)
    if not shared or said is False:
        return tensors
    if said and all(_is_of_vocabulary(name) for names in shared for name in names):
        left_out = {name for names in shared for name in names[1:]}
    elif loading := load(config, {name: header.shape for name, header in tensors.items()}):
        left_out = {name for names in shared for name in _tied_by_class(names, loading)}
    else:
        left_out = {name for names in shared for name in [*filter(_is_of_vocabulary, names)][1:] if said}
    return {name: header for name, header in tensors.items() if name not in left_out}


def _shared(headers: Iterable[TensorHeader]) -> list[list[str]]:
    """Groups of names that share all of their bytes."""
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for header in headers:
        if header.nbytes:
            groups[header.file, header.start, header.shape].append(header.name)
    return [names for names in groups.values() if len(names) > 1]


def _tied_by_class(names: Sequence[str], loading: Loading) -> list[str]:
    """The names that the class ties to another one of them."""
    parameter = {parts[0].tensor: name for name, parts in loading.parameters.items() if len(parts) == 1}
    kept: dict[str, str] = {}
    for name in sorted(names, key=lambda name: parameter.get(name, name) in loading.tied):
        own = parameter.get(name, name)
        kept.setdefault(loading.tied.get(own, own), name)
    return [name for name in names if name not in kept.values()]


def _is_of_vocabulary(name: str) -> bool:
    """Whether a tensor has a row for each token."""
    return INPUT_EMBEDDING.search(name) is not None or OUTPUT_HEAD.search(name) is not None

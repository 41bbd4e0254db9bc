"""How transformers loads the tensors of files: into which parameters, and which of these are one.

Modules have other names than the tensors in files: transformers renames what older releases saved, packs the experts of
a layer into one parameter, and ties an output head to the embedding. It keeps these rules for each class, and here it
is asked for them. It runs in a process of its own (see `built_model`), and only where names do not fit without it.
Where transformers is not installed or does not know the class, the answer is None.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from checkpoints.built_model import described_apart, meta_model
from checkpoints.confined import ConfinedError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Consecutive elements of a stored tensor, counted from its first one."""

    tensor: str
    first: int
    count: int


@dataclass(frozen=True)
class Loading:
    """What becomes of the tensors of a model's files.

    Args:
        parameters: by the name of a parameter, the stored elements that it is made of, in order; only those that are
            put together without arithmetic
        renamed: by a name that was asked for, the parameter that it means
        shapes: of all parameters
        tied: parameters that are another one, and which
        transposed: matrices that are stored as (in, out)
    """

    parameters: Mapping[str, tuple[Part, ...]]
    renamed: Mapping[str, str]
    shapes: Mapping[str, Shape]
    tied: Mapping[str, str]
    transposed: frozenset[str]

    def whole(self, parameter: str) -> str | None:
        """The stored tensor that is a parameter, if it is one alone."""
        parts = self.parameters.get(parameter, ())
        alone = len(parts) == 1 and parts[0].first == 0
        return parts[0].tensor if alone and parts[0].count == math.prod(self.shapes[parameter]) else None

    def tied_names(self, names: Iterable[str]) -> dict[str, str]:
        """By those of the names that were asked for whose parameters are tied, the stored tensor that they read."""
        sources = {name: self.tied.get(self.renamed.get(name, name)) for name in names}
        found = {name: self.whole(source) for name, source in sources.items() if source}
        return {name: stored for name, stored in found.items() if stored}


def load(config: Mapping[str, Any], shapes: Mapping[str, Shape], names: Iterable[str] = ()) -> Loading | None:
    """How transformers loads tensors.

    Args:
        config: of the model
        shapes: of the stored tensors, by name
        names: of parameters, as this or an older release of transformers calls them
    """
    if not config.keys() & {"architectures", "model_type"}:
        return None
    if not all(map(importlib.util.find_spec, ("transformers", "torch"))):
        return None
    return _loaded(json.dumps({"config": config, "shapes": shapes, "names": list(names)}))


@lru_cache(maxsize=8)
def _loaded(question: str) -> Loading | None:
    try:
        found = _loaded_apart(json.loads(question))
    except ConfinedError:
        return None
    if not found:
        return None
    return Loading(
        {name: tuple(Part(*part) for part in parts) for name, parts in found["parameters"].items()},
        found["renamed"],
        {name: tuple(shape) for name, shape in found["shapes"].items()},
        found["tied"],
        frozenset(found["transposed"]),
    )


def ties_by_default(config: Mapping[str, Any]) -> bool | None:
    """Whether the class of a model ties its output head where the config does not say; None if that is not known."""
    found = load(config, {})
    return None if found is None else bool(found.tied)


# -- in the process that runs transformers -----------------------------------------------------------------


def loaded(question: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of a `Loading`."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key
    from transformers.core_model_loading import rename_source_key as rename

    model = meta_model(question["config"])
    if model is None:
        return None
    state, prefix = model.state_dict(), model.base_model_prefix
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]

    def parameter(name: str) -> tuple[str, str | None]:
        found: tuple[str, str | None] = rename(name, renamings, converters, prefix, state)
        if found[0] not in state and name in state:
            found = rename(name, [], [], prefix, state)
        return found

    collected: dict[str, dict[str | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(question["shapes"], key=dot_natural_key):
        target, pattern = parameter(name)
        if target in state:
            collected[target][pattern].append(name)
    converter_of = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    sizes = {name: math.prod(shape) for name, shape in question["shapes"].items()}
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    parameters: dict[str, list[list[Any]]] = {}
    for target, sources in collected.items():
        converter = converter_of.get(next(iter(sources)) or "")
        if converter is None:
            parameters[target] = [[name, 0, sizes[name]] for names in sources.values() for name in names][:1]
        else:
            parameters.update(_parts(target, converter, sources, sizes, shapes))
    renamed = {name: found[0] for name in question["names"] if (found := parameter(name))[0] in state}
    return {
        "parameters": parameters,
        "renamed": renamed,
        "shapes": shapes,
        "tied": dict(model.all_tied_weights_keys),
        "transposed": [f"{path}.weight" for path, m in model.named_modules() if type(m).__name__ == "Conv1D"],
    }


def _parts(
    target: str,
    converter: Any,
    sources: Mapping[str | None, Sequence[str]],
    sizes: Mapping[str, int],
    shapes: Mapping[str, Sequence[int]],
) -> Iterator[tuple[str, list[list[Any]]]]:
    """The parameters that a converter makes, if it only concatenates stored elements."""
    lists = [sources[pattern] for pattern in converter.source_patterns if pattern in sources]
    match [(type(operation).__name__, getattr(operation, "dim", None)) for operation in converter.operations]:
        case [("MergeModulelist", 0)] if len(lists) == 1:
            [names] = lists
        case [("MergeModulelist", 0), ("Concatenate", 1)] if len(set(map(len, lists))) == 1:
            names = [name for of_expert in zip(*lists, strict=True) for name in of_expert]
        case [("Concatenate", 0)]:
            names = [name for names in lists for name in names]
        case [("Chunk" | "Split", 0)] if len(lists) == 1 and len(lists[0]) == 1:
            first = 0
            for pattern in converter.target_patterns:
                name = target.replace(converter.target_patterns[0], pattern)
                count = math.prod(shapes.get(name, (0,)))
                yield name, [[lists[0][0], first, count]]
                first += count
            return
        case _:
            return
    if sum(sizes[name] for name in names) == math.prod(shapes[target]):
        yield target, [[name, 0, sizes[name]] for name in names]


_loaded_apart = described_apart.beside(__name__, loaded.__name__)

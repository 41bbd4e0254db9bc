"""What transformers builds from a config: the kind of each layer and the shapes of the parameters, without weights.

A config is a stranger's file, and a model of it can take any time and memory to build. So it is built on the meta
device in a process of its own with little of both. Where transformers is not installed or does not know the class, the
answer is None. Code that a repository brings is never run.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.confined import Confined, ConfinedError, LimitError

# Seconds of processor time and bytes of memory that building may take.
SECONDS, MEMORY = 60, 8 << 30


@dataclass(frozen=True)
class BuiltModel:
    """A model as transformers builds it.

    Args:
        layers: for each list of layers, by the prefix of its parameters, the kind of each layer: its modules' classes,
            settings and shapes, as one number for equal kinds
        kinds: what each number means, in JSON
        shapes: of the parameters outside the layers, by name
        lists: settings with one entry for each layer that the class derives from the config, by their name
    """

    layers: Mapping[str, Sequence[int]]
    kinds: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    lists: Mapping[str, Sequence[Any]]

    def kinds_of(self, prefix: str, count: int) -> list[str]:
        """The kind of each layer of the list that tensors with this prefix belong to.

        Modules and files may call it by other names. Then it is the only list of `count` layers; without one, none.
        """
        lists = [numbers for name, numbers in self.layers.items() if _same_place(name, prefix)]
        lists = lists or [numbers for numbers in self.layers.values() if len(numbers) == count]
        return [self.kinds[number] for number in lists[0]] if len(lists) == 1 else []


def _same_place(name: str, prefix: str) -> bool:
    """Whether a list of modules and a prefix of tensors' names are the same, apart from what precedes them."""
    ours, theirs = f".{name}", f".{prefix.rstrip('.')}"
    return ours.endswith(theirs) or theirs.endswith(ours)


def build(configs: Sequence[Mapping[str, Any]]) -> list[BuiltModel | None]:
    """What transformers builds from each of these configs; None for what it does not know or cannot build."""
    if not all(map(importlib.util.find_spec, ("transformers", "torch"))):
        return [None] * len(configs)
    return [_built(config) for config in configs]


def _built(config: Mapping[str, Any]) -> BuiltModel | None:
    try:
        found = described_apart(config)
    except ConfinedError:
        return None
    return BuiltModel(**found) if found else None


def refusal(config: Mapping[str, Any]) -> str:
    """Why transformers cannot build a config whose class it knows; empty if it can, or if it takes too long."""
    try:
        described_apart(config)
    except LimitError:
        return ""
    except ConfinedError as error:
        return " ".join(str(error).split())[:200]
    return ""


def ready() -> None:
    """Import what the first model takes most of its time for."""
    import transformers.modeling_utils  # noqa: F401


def described(config: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of a `BuiltModel`, for the process that builds it."""
    from torch import nn

    model = meta_model(config)
    if model is None:
        return None
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0
    ]
    outer = [
        (path, module)
        for path, module in lists
        if not any(path.startswith(other + ".") for other, _ in lists if other != path)
    ]
    numbers: dict[str, int] = {}
    layers = {
        path: [numbers.setdefault(_kind(layer), len(numbers)) for layer in module] for path, module in outer
    }
    shapes = {
        key: list(parameter.shape)
        for key, parameter in model.named_parameters()
        if not any(key.startswith(path + ".") for path, _ in outer)
    }
    text = model.config.get_text_config()
    count = getattr(text, "num_hidden_layers", None)
    entries = {
        key: value
        for key, value in vars(text).items()
        if isinstance(value, list) and count and len(value) == count and not key.startswith("_")
    }
    return {"layers": layers, "kinds": list(numbers), "shapes": shapes, "lists": entries}


def meta_model(config: dict[str, Any]) -> Any:
    """The model that a config describes, without weights; None for a class that transformers does not have."""
    import torch
    import transformers

    name = next(iter(config.get("architectures") or []), "")
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        mapping = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        cls = getattr(transformers, str(mapping.get(str(config.get("model_type")))), None)
    if cls is None or cls.config_class is None:
        return None
    given = {key: _with_floats(value) for key, value in config.items() if key != "quantization_config"}
    parsed = without_kernels(cls.config_class.from_dict(given))
    with torch.device("meta"):
        return cls(parsed)


def without_kernels(config: Any) -> Any:
    """A config of transformers that names no implementation of attention or of experts, in place.

    Such a name may be a repository on the Hub, whose compiled code transformers would load and run.
    """
    config._attn_implementation = None
    config._experts_implementation = None
    return config


def _with_floats(value: Any) -> Any:
    """A setting with the numbers that JSON lacks: transformers writes `{"__float__": "Infinity"}` for them."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {key: _with_floats(item) for key, item in value.items()}
    return [*map(_with_floats, value)] if isinstance(value, list) else value


def _kind(layer: Any) -> str:
    """A layer's modules: their names, classes, settings and parameters; not the number that the layer has."""
    import re

    position = re.compile(r"idx|index|(^|_)id$|number|^training$|layer_num")
    found = []
    for path, module in layer.named_modules():
        settings = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | str | None)
            and not key.startswith("_")
            and not position.search(key)
        }
        own = {key: list(parameter.shape) for key, parameter in module.named_parameters(recurse=False)}
        found.append([path, type(module).__name__, settings, own])
    return json.dumps(found, sort_keys=True, default=str)


described_apart = Confined(__name__, described.__name__, ready=ready.__name__, seconds=SECONDS, memory=MEMORY)

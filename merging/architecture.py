"""What a merge has to know of an architecture, read from names and config instead of a table.

The layer of a tensor is the first integer in its name: `model.layers.12.mlp.up_proj.weight`. The names that
share what stands before it are a stack; the stack of a language model is the one whose length the config
gives. Everything else (embeddings, final norm, head) stands before or after the layers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# How configs call the number of layers.
LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
# Lists that may be as long as the stack by chance.
NOT_BY_LAYER = ("architectures", "token_id", "token_ids", "token_index")
# Names of what stands before the first layer; what is neither this nor a layer stands after the last.
EMBEDDING = re.compile(r"embed|wte|wpe|\bemb\b|word_embeddings", re.IGNORECASE)
INPUT_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight$", re.IGNORECASE
)
OUTPUT_HEAD = re.compile(r"(^|\.)(lm_head|output|embed_out)\.weight$")
NORM = re.compile(r"norm|(^|[._])ln(_|\d|f|\.)", re.IGNORECASE)


@dataclass(frozen=True)
class Stack:
    """The layers of a model: `prefix` is what stands before the number, `count` how many there are."""

    prefix: str
    count: int

    def split(self, name: str) -> tuple[int, str] | None:
        """Layer and rest of a tensor's name, or None if it belongs to no layer."""
        if not name.startswith(self.prefix):
            return None
        number, _, rest = name[len(self.prefix) :].partition(".")
        if not number.isdigit() or int(number) >= self.count:
            return None
        return int(number), rest

    def join(self, layer: int, rest: str) -> str:
        return f"{self.prefix}{layer}.{rest}"


def find_stack(names: Iterable[str], config: Mapping[str, Any]) -> Stack | None:
    """The stack of layers of a model, or None if its tensors are not numbered by layer.

    Of several stacks (a vision tower beside a language model) it is the one whose length the config's
    text part gives, else the one with most tensors.
    """
    stacks: dict[str, set[int]] = defaultdict(set)
    sizes: dict[str, int] = defaultdict(int)
    for name in names:
        match = re.match(r"(.*?)(?<![^.])(\d+)\.", name)
        if match:
            stacks[match[1]].add(int(match[2]))
            sizes[match[1]] += 1
    counts = [count for _, _, count in layer_counts(config)]
    for count in counts:
        fitting = [prefix for prefix, layers in stacks.items() if set(range(count)) <= layers]
        if fitting:
            return Stack(max(fitting, key=lambda prefix: sizes[prefix]), count)
    whole = [prefix for prefix, layers in stacks.items() if layers == set(range(len(layers)))]
    if not whole:
        return None
    prefix = max(whole, key=lambda prefix: sizes[prefix])
    return Stack(prefix, len(stacks[prefix]))


def layer_counts(config: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, int]]:
    """The places of a config that say how many layers there are: (config, key, count), the text part's first."""
    inner = [value for value in config.values() if isinstance(value, dict)]
    text = [value for key, value in config.items() if isinstance(value, dict) and "text" in key]
    for part in [*text, config, *(value for value in inner if value not in text)]:
        for key in LAYER_COUNT_KEYS:
            if type(part.get(key)) is int:
                yield part, key, part[key]


def stands_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers belongs to the embeddings rather than to the end of the model."""
    return EMBEDDING.search(name) is not None


def role_of(name: str) -> str:
    """What a tensor is, for methods that treat some apart: "norm", "embedding" (output heads too) or "layer"."""
    if NORM.search(name):
        return "norm"
    return "embedding" if EMBEDDING.search(name) or OUTPUT_HEAD.search(name) else "layer"


def restack(config: dict[str, Any], stack: Stack, layers: Sequence[tuple[Mapping[str, Any], int]]) -> None:
    """Write a new number of layers into a config, and rebuild its lists that have an entry a layer.

    Args:
        config: changed in place
        stack: the layers that the config speaks of
        layers: for each output layer the config and the layer that it comes from
    """
    for part, key, count in list(layer_counts(config)):
        if count != stack.count:
            continue
        path = _path_to(config, part)
        part[key] = len(layers)  # type: ignore[index]
        for name, value in part.items():
            if _is_by_layer(name, value, stack.count):
                part[name] = [  # type: ignore[index]
                    _at(source, path)[name][layer] for source, layer in layers
                ]


def _is_by_layer(name: str, value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count > 1 and not name.endswith(NOT_BY_LAYER)


def _path_to(config: Mapping[str, Any], part: Mapping[str, Any]) -> tuple[str, ...]:
    return () if part is config else (next(key for key, value in config.items() if value is part),)


def _at(config: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    for key in path:
        config = config[key]
    return config


def input_embedding(names: Iterable[str]) -> str | None:
    """The name of the tensor that embeds tokens, which a tied head reads as well."""
    return next((name for name in names if INPUT_EMBEDDING.search(name)), None)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the head reads the embedding matrix."""
    inner = (value for key, value in config.items() if isinstance(value, dict) and "text" in key)
    return bool(config.get("tie_word_embeddings", any(part.get("tie_word_embeddings") for part in inner)))

"""What a merge has to know of an architecture, read from names and config instead of a table.

The layer of a tensor is the first integer in its name: `model.layers.12.mlp.up_proj.weight`. Names with the
same prefix before it are a stack, if the config names that number of layers. A model with several stacks
(an encoder and a decoder, a vision tower beside a language model) consists of modules, one a stack; the
component in which the stacks' names begin to differ tells the modules apart. Everything else (embeddings,
final norm, head) comes before or after the layers of its module.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from checkpoints.dtypes import FLOATS
from checkpoints.formats.header import TensorHeader
from checkpoints.loading import ties_by_default

# How configs call the number of layers.
LAYER_COUNT_KEYS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_encoder_layers",
    "encoder_layers",
    "num_decoder_layers",
    "decoder_layers",
    *(f"{part}_{key}" for part in ("encoder", "decoder") for key in ("num_hidden_layers", "num_layers")),
    "depth",
)
# Words that tell what a part of a model, or of a config, is for; the first that is found counts.
ROLES = {
    "audio": re.compile(r"audio|speech|sound"),
    "vision": re.compile(r"vis(ion|ual)|image|video|\bvit\b"),
    "text": re.compile(r"text|language|llm"),
    "decoder": re.compile(r"decoder"),
    "encoder": re.compile(r"encoder"),
}
# Of several stacks, the one that answers comes first; so does the part of the config that speaks of it.
MOST_CENTRAL = ("text", "", "decoder", "encoder", "vision", "audio")
# Names of tensors before the first layer; all others outside the layers come after the last.
EMBEDDING = re.compile(r"embed|wte|wpe|\bemb\b|word_embeddings|\bshared\b", re.IGNORECASE)
INPUT_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|embeddings|shared)\.weight$",
    re.IGNORECASE,
)
_HEAD = r"(lm_head(\.decoder)?|output|embed_out|proj_out|cls\.predictions\.decoder)\.weight$"
# Outside the layers: inside one, `output.weight` is an ordinary matrix.
OUTPUT_HEAD = re.compile(rf"^((?!\d+\.)[^.]+\.)*{_HEAD}")
# The bias of a head that holds another one's.
COPY_OF_BIAS = re.compile(r"(lm_head|predictions)\.decoder\.bias$")
# The table that an encoder and a decoder share.
SHARED = re.compile(r"(^|\.)shared\.weight$")
# Classes of models without a head.
HEADLESS = re.compile(r"(?<!LMHead)Model$|^unknown$")
# What a class is called whose config names none.
UNKNOWN = "unknown"
HEAD_BIAS = re.compile(r"(^|\.)(lm_head|cls\.predictions|embed_out)\.bias$|final_logits_bias$")
NORM = re.compile(r"norm|(^|[._])ln(_|\d|f|\.)", re.IGNORECASE)
# Tables that loaders make for themselves, and scales of a cache in eight bits: some checkpoints bring them, others of
# the same model do not.
DERIVED = re.compile(
    r"\.([kqv]|kv|prob_output)_scale$|\.[kqv]_proj\.output_scale$|rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|\.attention\.(masked_)?bias$|position_ids$"
)

# What only quantized weights have, by the end of the name; and what plain ones may have as well.
QUANTIZED = re.compile(
    r"(^|[._])(scale_inv|zero_point|qweight|qzeros|g_idx|absmax|quant_map|SCB)$|\.quant_state\."
)
PACKED = re.compile(r"(^|[._])(scales?|zeros|packed|codebooks?)$")

Path = tuple[str, ...]


def is_packed(name: str, tensor: TensorHeader, *, is_said: bool) -> bool:
    """Whether a tensor shows that its model is quantized: packed numbers, or their scales.

    Args:
        is_said: whether the config says that the model is
    """
    if QUANTIZED.search(name):
        return True
    is_plain = tensor.dtype in FLOATS or DERIVED.search(name)
    return is_said and (PACKED.search(name) is not None or not is_plain)


@dataclass(frozen=True)
class Stack:
    """The layers of a module: `prefix` is the part of a name before the number, `count` the number of layers."""

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

    def beyond(self, name: str) -> tuple[int, str] | None:
        """Number and rest of a tensor's name that carries the number of a layer behind the last one, else None.

        Layers for multi-token prediction are stored so, and belong to none that the config counts.
        """
        number, _, rest = name[len(self.prefix) :].partition(".")
        behind = name.startswith(self.prefix) and number.isdigit() and int(number) >= self.count
        return (int(number), rest) if behind else None

    def join(self, layer: int, rest: str) -> str:
        return f"{self.prefix}{layer}.{rest}"


@dataclass(frozen=True)
class Module:
    """A part of a model that a recipe can name; without layers, it is a projector or the like."""

    name: str
    stack: Stack | None

    @property
    def is_one_of_equals(self) -> bool:
        """Whether it is half of an encoder and a decoder, so that "the layers" of such a model could be either's."""
        return self.stack is not None and _role(self.stack.prefix) in ("decoder", "encoder")


class Layout:
    """How a model is built.

    Args:
        names: of its tensors
        config: as config.json has it
    """

    def __init__(self, names: Iterable[str], config: Mapping[str, Any]):
        self.names = tuple(names)
        self.config = config
        self._stacks = _find_stacks(self.names, config)
        prefixes = [tuple(stack.prefix.split(".")[:-1]) for stack in self._stacks]
        # One more than the components that all stacks' prefixes share.
        self._depth = (
            len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*prefixes, strict=False)))) + 1
        )
        self._shared = prefixes[0][: self._depth - 1] if prefixes else ()

    @property
    def layers(self) -> int:
        """How many the longest stack has; 0 where there is none."""
        return max((stack.count for stack in self._stacks), default=0)

    @property
    def main(self) -> Module:
        """The module that a recipe's `slices` speak of: the language model, or the decoder, if there are several."""
        return next(iter(self.modules.values()))

    @cached_property
    def modules(self) -> dict[str, Module]:
        """By name, the main one first."""
        if len(self._stacks) < 2:
            return {"default": Module("default", self._stacks[0] if self._stacks else None)}
        found: dict[str, Module] = {}
        for stack in self._stacks:
            name = stack.prefix.split(".")[self._depth - 1]
            found.setdefault(name, Module(name, stack))
        for name in self.names:
            if own := self._component(name):
                found.setdefault(own, Module(own, None))
        return found

    def module_of(self, name: str) -> Module:
        """The module that a tensor belongs to; heads and the like outside all modules are the main one's."""
        return self.modules.get(self._component(name) or "", self.main)

    @cached_property
    def names_by_module(self) -> Mapping[str, Sequence[str]]:
        if len(self.modules) == 1:
            return dict.fromkeys(self.modules, self.names)
        found: dict[str, list[str]] = {module: [] for module in self.modules}
        for name in self.names:
            found[self.module_of(name).name].append(name)
        return found

    @cached_property
    def embedding(self) -> str | None:
        """The name of the tensor that embeds tokens."""
        return input_embedding(self.names_by_module[self.main.name]) or input_embedding(self.names)

    def tied(self, name: str) -> str | None:
        """The tensor that replaces one the model does not have: the table of embeddings, if it is the same.

        A head may read the embedding. An encoder and a decoder may share a table, of which some files hold copies.
        """
        if OUTPUT_HEAD.search(name):
            return self.embedding if self.is_tied else None
        if COPY_OF_BIAS.search(name):
            return next((own for own in self.names if own == COPY_OF_BIAS.sub(r"\1.bias", name)), None)
        if not INPUT_EMBEDDING.search(name):
            return None
        tables = list(filter(INPUT_EMBEDDING.search, self.names))
        shared = [table for table in tables if SHARED.search(table)]
        return next(iter(shared or (tables if SHARED.search(name) else [])), None)

    @cached_property
    def is_tied(self) -> bool:
        """Whether the head reads the embedding matrix."""
        return is_tied(self.config, self.names)

    def find(self, wanted: str) -> Module | None:
        """The module that a recipe means: by its own name, by the beginning of its tensors' names, or by its role.

        mergekit calls the same part of a model `vision_tower` for one architecture and `vision_model` for another.
        """
        if wanted in self.modules:
            return self.modules[wanted]
        if wanted == "default":  # what has no layers, where mergekit names the others by their layers
            rest = [module for module in self.modules.values() if module.stack is None]
            return rest[0] if len(rest) == 1 else None
        for module in self.modules.values():
            if module.stack and module.stack.prefix.startswith(wanted.rstrip(".") + "."):
                return module
        role = _role(wanted)
        fitting = [module for module in self.modules.values() if _role(module.name) == role]
        if role and len(fitting) == 1:
            return fitting[0]
        return self.main if role in ("text", "decoder") else None

    def _component(self, name: str) -> str | None:
        """The first component in which modules differ; None outside of all modules."""
        if len(self._stacks) < 2 or re.match(_HEAD, name):
            return None
        parts = name.split(".")
        inside = tuple(parts[: self._depth - 1]) == self._shared and len(parts) > self._depth
        return parts[self._depth - 1] if inside else None

    # -- config ----------------------------------------------------------------------------------------

    def counts(self, stack: Stack) -> list[tuple[Path, str]]:
        """Where the config says how many layers a stack has: pairs of the path to a part of it, and the key there."""
        return next(_fitting(stack.prefix, set(range(stack.count)), self.config), [])


def _find_stacks(names: Iterable[str], config: Mapping[str, Any]) -> list[Stack]:
    """The stacks of layers that the config knows of, the most central first; else the largest there is."""
    layers: dict[str, set[int]] = defaultdict(set)
    sizes: dict[str, int] = defaultdict(int)
    for name in names:
        match = re.match(r"(.*?)(?<![^.])(\d+)\.", name)
        if match:
            layers[match[1]].add(int(match[2]))
            sizes[match[1]] += 1

    def rank(prefix: str) -> tuple[int, int]:
        return MOST_CENTRAL.index(_role(prefix)), -sizes[prefix]

    stacks = []
    for prefix in sorted(layers, key=rank):
        places = next(_fitting(prefix, layers[prefix], config), None)
        if places:
            path, key = places[0]
            stacks.append(Stack(prefix, part_at(config, path)[key]))
    whole = [prefix for prefix, found in layers.items() if found == set(range(len(found)))]
    if stacks or not whole:
        return stacks
    prefix = max(whole, key=lambda prefix: sizes[prefix])
    return [Stack(prefix, len(layers[prefix]))]


def _fitting(prefix: str, layers: set[int], config: Mapping[str, Any]) -> Iterator[list[tuple[Path, str]]]:
    """Groups of places in a config that may tell the length of a stack, the group that is likeliest meant first.

    A config of an encoder and a decoder has a count for each. So of the places that speak of what the stack is for,
    all that fit are meant; if there are none, those that speak of nothing special.
    """
    own = _role(prefix)
    places: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path, key in _layer_counts(config):
        places[_role(".".join((*path, key)))].append((path, key))
    others = [role for role in MOST_CENTRAL[:3] if role != own]
    for role in [own, *others] if own in MOST_CENTRAL[:3] else [own, ""]:
        fitting = [
            (path, key)
            for path, key in places[role]
            if part_at(config, path)[key] <= len(layers)
            and layers.issuperset(range(part_at(config, path)[key]))
        ]
        longest = max((part_at(config, path)[key] for path, key in fitting), default=0)
        if longest:
            yield [(path, key) for path, key in fitting if part_at(config, path)[key] == longest]


def _role(text: str) -> str:
    """What a name is about; empty for nothing special."""
    return next((role for role, words in ROLES.items() if words.search(text.lower())), "")


def _layer_counts(config: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, str]]:
    for key in LAYER_COUNT_KEYS:
        if type(count := config.get(key)) is int and count > 0:
            yield path, key
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _layer_counts(value, (*path, key))


def stands_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers belongs to the embeddings rather than to the end of the model."""
    return EMBEDDING.search(name) is not None


def role_of(name: str) -> str:
    """What a tensor is, for methods that treat some apart: "norm", "embedding" (output heads too) or "layer"."""
    if NORM.search(name):
        return "norm"
    return "embedding" if EMBEDDING.search(name) or OUTPUT_HEAD.search(name) else "layer"


def part_at(config: Any, path: Path) -> Any:
    """The part of a config at a path; empty if there is none."""
    for key in path:
        inner = config.get(key)
        config = inner if isinstance(inner, dict) else {}
    return config


def model_class(config: Mapping[str, Any]) -> str:
    """The class that a config names, or its model type."""
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    return str(named or config.get("model_type") or UNKNOWN)


def is_transposed(shapes: Mapping[str, Sequence[int]]) -> bool | None:
    """Whether linear layers are stored as (in, out): their biases are as long as the outputs.

    Args:
        shapes: of a model's tensors, by name

    Returns:
        None where no layer that is not square has a bias.
    """
    for name, bias in shapes.items():
        weight = shapes.get(f"{name.removesuffix('.bias')}.weight", ())
        if name.endswith(".bias") and len(weight) == 2 and weight[0] != weight[1]:
            return tuple(bias) == (weight[1],)
    return None


def input_embedding(names: Iterable[str]) -> str | None:
    """The name of the tensor that embeds tokens, which a tied head reads as well."""
    return next((name for name in names if INPUT_EMBEDDING.search(name)), None)


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """What a config says of whether the head reads the embedding matrix; None if it says nothing."""
    inner = [value for key, value in config.items() if isinstance(value, dict) and "text" in key]
    said = [part["tie_word_embeddings"] for part in (config, *inner) if "tie_word_embeddings" in part]
    return bool(said[0]) if said else None


def is_tied(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether the head of a model reads the embedding matrix.

    A config that does not say means what its class does. Where that is not known, a model with a head is one that has
    it in its files, or else reads the embedding.

    Args:
        config: of the model
        names: of its tensors
    """
    said = says_tied(config)
    if said is not None:
        return said
    if any(map(OUTPUT_HEAD.search, names)):
        return False
    by_default = ties_by_default(config)
    return not HEADLESS.search(model_class(config)) if by_default is None else by_default


def untie(config: dict[str, Any]) -> None:
    """Let a config say that the head is a tensor of its own, in place.

    T5 and its kin scale what they compute by the same setting, so that of an encoder and a decoder stays. Loaders see
    from the two tensors that they are not tied.
    """
    if not config.get("is_encoder_decoder"):
        config["tie_word_embeddings"] = False


def renamed(name: str, stack: Stack | None, other: Stack | None) -> str:
    """What a tensor outside the layers is called in a model whose stack has another prefix.

    A language model is `model.layers.` alone and `language_model.model.layers.` inside a vision-language model.
    """
    if stack is None or other is None:
        return name
    ours, theirs = stack.prefix.split("."), other.prefix.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    if ours == theirs:
        return name
    parts = name.split(".")
    return ".".join([*theirs, *parts[len(ours) :]]) if parts[: len(ours)] == ours else name

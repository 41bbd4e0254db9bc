"""The types of GGUF files, and how each type stores each tensor: by the rules of llama.cpp's own quantizer.

A file of type Q4_K_M mixes several types of tensors. A tensor whose rows are no multiple of a type's block gets another
type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from checkpoints.problems import MergeError, Problem, suggestion


@dataclass(frozen=True)
class TensorType:
    """How the numbers of a tensor are stored.

    Args:
        name: as ggml spells it
        number: in a file
        block: elements that are stored together; a row is a multiple of them
        size: bytes of a block
    """

    name: str
    number: int
    block: int
    size: int

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of `width` elements."""
        return width // self.block * self.size


F32, F16, BF16 = TensorType("F32", 0, 1, 4), TensorType("F16", 1, 1, 2), TensorType("BF16", 30, 1, 2)
Q4_0, Q5_0, Q5_1 = TensorType("Q4_0", 2, 32, 18), TensorType("Q5_0", 6, 32, 22), TensorType("Q5_1", 7, 32, 24)
Q8_0 = TensorType("Q8_0", 8, 32, 34)
Q3_K, Q4_K = TensorType("Q3_K", 11, 256, 110), TensorType("Q4_K", 12, 256, 144)
Q5_K, Q6_K = TensorType("Q5_K", 13, 256, 176), TensorType("Q6_K", 14, 256, 210)

# What a tensor gets whose rows are no multiple of the block.
_NARROW = {Q3_K: Q4_0, Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, Q8_0: F16, Q4_0: F16, Q5_0: F16, Q5_1: F16}


@dataclass(frozen=True)
class FileType:
    """A type of file.

    Args:
        name: as llama.cpp and the Hub spell it
        number: in the key `general.file_type`
        base: type of the tensors that no rule names
    """

    name: str
    number: int
    base: TensorType

    @property
    def is_mixed(self) -> bool:
        return self.base.block > 1

    def estimated_bytes(self, shapes: Iterable[Sequence[int]]) -> int:
        """A rough size of a file, for the plan: mixes add about a tenth.

        Args:
            shapes: of the model's tensors
        """
        mixed = 1.1 if self.name.endswith("_M") else 1.02
        return int(mixed * sum(self._bytes(shape) for shape in shapes))

    def _bytes(self, shape: Sequence[int]) -> float:
        if len(shape) < 2:
            return F32.size * math.prod(shape)
        kind = self.base
        while shape[-1] % kind.block:
            kind = _NARROW[kind]
        return math.prod(shape) * kind.size / kind.block


FILE_TYPES: dict[str, FileType] = {
    kind.name: kind
    for kind in (
        FileType("BF16", 32, BF16),
        FileType("F16", 1, F16),
        FileType("Q8_0", 7, Q8_0),
        FileType("Q6_K", 18, Q6_K),
        FileType("Q5_K_M", 17, Q5_K),
        FileType("Q4_K_M", 15, Q4_K),
        FileType("Q4_0", 2, Q4_0),
        FileType("Q3_K_M", 12, Q3_K),
    )
}


def file_types(names: Iterable[str]) -> tuple[FileType, ...]:
    """The types of these names, in any case, each once.

    Raises:
        MergeError: a name is unknown, needs an importance matrix, or there is none.
    """
    found: dict[str, FileType] = {}
    problems = []
    for name in (given.strip().upper() for given in names):
        if name in FILE_TYPES:
            found[name] = FILE_TYPES[name]
        elif name.startswith("IQ"):
            values = {"type": name, "known": list(FILE_TYPES)}
            problems.append(Problem("gguf-needs-importance", values, name))
        else:
            near = suggestion(name, map(str.lower, FILE_TYPES))["near"]
            values = {"type": name, "near": near and near.upper(), "known": list(FILE_TYPES)}
            problems.append(Problem("gguf-unknown-type", values, name))
    if not found and not problems:
        problems.append(Problem("gguf-no-type", {"known": list(FILE_TYPES)}))
    if problems:
        raise MergeError(problems)
    return tuple(found.values())


@dataclass(frozen=True)
class Shape:
    """What the rules ask of a model.

    Args:
        architecture: llama.cpp's name
        layers, heads, kv_heads, experts: counts; 0 where the model has none
    """

    architecture: str
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    experts: int = 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for a model of 70 B, in which many heads share few values."""
        if self.layers != 80:
            return False
        return self.architecture == "qwen2" or (
            self.architecture in ("llama", "deci") and self.heads != self.kv_heads
        )


@dataclass(frozen=True)
class UnquantizedTensor:
    """A tensor of a file before it is quantized.

    Args:
        name: llama.cpp's
        width: elements of a row
        is_float32: whether the converter keeps it in float32
    """

    name: str
    width: int
    is_float32: bool


# Matrices that llama.cpp never quantizes.
_NEVER = re.compile(
    r"_norm\.weight$|ffn_gate_inp|altup|laurel|per_layer_model_proj|position_embd\.weight$|token_types\.weight$|"
    r"ssm_conv1d|shortconv\.conv\.weight|time_mix_(first|w0|w1|w2|v0|v1|v2|a0|a1|a2|g1|g2|decay_w1|decay_w2|lerp_fused)|"
    r"attn_rel_b\.weight"
)


def tensor_types(kind: FileType, tensors: Sequence[UnquantizedTensor], shape: Shape) -> dict[str, TensorType]:
    """The type of each tensor of a file, by name."""
    rules = _Rules(kind, shape, tensors)
    return {tensor.name: rules.type_of(tensor) for tensor in tensors}


class _Rules:
    """The rules of one file."""

    def __init__(self, kind: FileType, shape: Shape, tensors: Sequence[UnquantizedTensor]):
        self.kind = kind
        self.shape = shape
        names = [tensor.name for tensor in tensors]
        self.has_output = "output.weight" in names
        self.values = _numbered(name for name in names if re.search(r"attn_(v|qkv|kv_b)\.weight", name))
        self.downs = _numbered(name for name in names if "ffn_down" in name)

    def type_of(self, tensor: UnquantizedTensor) -> TensorType:
        if tensor.is_float32:
            return F32
        if not self.kind.is_mixed:
            return self.kind.base
        if not tensor.name.endswith("weight") or _NEVER.search(tensor.name):
            return BF16
        wanted = self._wanted(tensor)
        while tensor.width % wanted.block:
            wanted = _NARROW[wanted]
        return wanted

    def _wanted(self, tensor: UnquantizedTensor) -> TensorType:
        name, base = tensor.name, self.kind.base
        head = "output.weight" if self.has_output else "token_embd.weight"
        if name == head:
            return self._head(tensor)
        if base in (Q8_0, Q6_K, Q4_0) and self.shape.experts != 8:
            return base
        if re.search(r"attn_v\.weight", name):
            return self._value(name)
        if "attn_k.weight" in name:
            return Q8_0 if self.shape.experts == 8 else base
        if "ffn_down" in name:
            return self._down(name)
        if "attn_output.weight" in name:
            return self._attention_output()
        if "attn_qkv.weight" in name:
            return {Q3_K: Q4_K, Q4_K: Q5_K, Q5_K: Q6_K}.get(base, base)
        return base

    def _head(self, tensor: UnquantizedTensor) -> TensorType:
        base = self.kind.base
        is_narrow = tensor.width % base.block != 0
        return Q8_0 if base == Q8_0 or is_narrow or self.shape.architecture == "falcon" else Q6_K

    def _value(self, name: str) -> TensorType:
        base, (place, count) = self.kind.base, (self.values[name], len(self.values))
        if self.shape.experts == 8:
            return Q8_0
        if base == Q3_K:
            found = Q5_K if place < 2 else Q4_K
        else:
            found = Q6_K if base in (Q4_K, Q5_K) and _is_sensitive(place, count) else base
        return Q5_K if self.shape.is_70b and found in (Q3_K, Q4_K) else found

    def _down(self, name: str) -> TensorType:
        base, count = self.kind.base, self.shape.layers
        place = _layer(name) if self.shape.experts > 1 else self.downs[name]
        is_falcon = self.shape.architecture == "falcon"
        if base == Q3_K:
            if place < count // 16:
                return Q5_K
            return Q4_K if not is_falcon or _is_sensitive(place, count) else Q3_K
        if base == Q4_K and is_falcon:
            return Q6_K if place < count // 16 else Q5_K if _is_sensitive(place, count) else Q4_K
        return Q6_K if base in (Q4_K, Q5_K) and _is_sensitive(place, count) else base

    def _attention_output(self) -> TensorType:
        base = self.kind.base
        if self.shape.architecture == "falcon":
            return base
        if self.shape.experts == 8:
            return Q5_K if base in (Q3_K, Q4_K) else base
        return Q4_K if base == Q3_K else base


def _numbered(names: Iterable[str]) -> Mapping[str, int]:
    """The place of each name in the order of the layers."""
    return {name: place for place, name in enumerate(sorted(names, key=lambda name: (_layer(name), name)))}


def _layer(name: str) -> int:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _is_sensitive(place: int, count: int) -> bool:
    """Whether a layer gets more bits: the first and the last eighth, and every third between them."""
    return place < count // 8 or place >= 7 * count // 8 or (place - count // 8) % 3 == 2

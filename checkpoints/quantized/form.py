"""A form of quantized weights: which stored tensors make up a plain one, and its numbers from theirs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from checkpoints.dtypes import is_known, itemsize, torch_name
from checkpoints.formats.header import TensorHeader

if TYPE_CHECKING:
    from torch import Tensor

# Reads bytes of a stored tensor: its name, an offset in bytes, and a buffer to fill.
ReadInto = Callable[[str, int, memoryview], None]


class UnknownQuantizationError(Exception):
    """The tensors contradict their form, or each other; the text is for the problem."""


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of a model as they are stored.

    Args:
        headers: by name
        read_into: reads them
        settings: the config's `quantization_config`
        dtype: by safetensors' name, which the config says that the weights have
    """

    headers: Mapping[str, TensorHeader]
    read_into: ReadInto
    settings: Mapping[str, Any]
    dtype: str

    def whole(self, name: str) -> Tensor:
        """A tensor in its stored type and shape."""
        header = self.headers[name]
        return self.elements(name, 0, header.elements).view(header.shape)

    def rows(self, name: str, first: int, end: int) -> Tensor:
        """Rows (end - first, width) of a tensor whose last axis has `width` entries."""
        width = self.headers[name].shape[-1]
        return self.elements(name, first * width, end * width).view(end - first, width)

    def elements(self, name: str, first: int, end: int) -> Tensor:
        """Elements (end - first,) of a tensor, row by row."""
        import torch

        header = self.headers[name]
        kind, size = getattr(torch, torch_name(header.dtype)), itemsize(header.dtype)
        data = bytearray((end - first) * size)
        self.read_into(name, first * size, memoryview(data))
        return torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)

    def nbytes(self, names: Iterable[str]) -> int:
        return sum(self.headers[name].nbytes for name in names)

    def suffixed(self, suffix: str, *dtypes: str) -> list[str]:
        """What the tensors with this suffix and one of these types are called without it."""
        return [
            name.removesuffix(suffix)
            for name, header in self.headers.items()
            if name.endswith(suffix) and (not dtypes or header.dtype in dtypes)
        ]


class QuantizedTensor(ABC):
    """A tensor whose numbers are computed from stored ones.

    A row has the length of the last axis, or is shorter where fewer elements can be computed alone. All arithmetic is
    in float32 and by element, so the bits do not depend on how many rows are computed at once.

    Args:
        stored: the model's tensors
        shape: of the plain tensor
        pieces: names of the stored tensors that it consists of
        dtype: by safetensors' name, that the plain tensor had

    Attributes:
        is_rounded: whether precision was lost
    """

    is_rounded = True

    def __init__(
        self, stored: StoredTensors, shape: tuple[int, ...], pieces: tuple[str, ...], dtype: str = ""
    ):
        self.stored = stored
        self.shape = shape
        self.pieces = pieces
        self.dtype = dtype or stored.dtype

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes that are fetched to read it once."""
        return self.stored.nbytes(self.pieces)

    @property
    def part_rows(self) -> int:
        """Rows that share what is held; a tensor of several parts, such as experts, holds one at a time."""
        return math.prod(self.shape) // max(self.width, 1)

    @abstractmethod
    def hold(self, part: int) -> tuple[Tensor, ...]:
        """What all rows of a part need."""

    @abstractmethod
    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        """Rows first to end of one part, as float32 (end - first, width)."""


class Form(Protocol):
    """One form."""

    name: str
    # Names end in one of these where tensors are of this form, or concern only how activations are quantized.
    left_out: tuple[str, ...]

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        """The plain tensors, by name.

        Raises:
            UnknownQuantizationError: the stored tensors contradict the form.
        """


def expect(is_so: bool, name: str, what: str) -> None:
    """Refuse a tensor.

    Raises:
        UnknownQuantizationError: it is not so.
    """
    if not is_so:
        raise UnknownQuantizationError(f"{name}: {what}")


def number(settings: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number of the settings."""
    value = settings.get(key, default)
    expect(isinstance(value, int) and not isinstance(value, bool), key, f"{value!r} is no whole number")
    return int(value)


def settings_of_weights(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What compressed-tensors says of the weights of each group of modules."""
    groups = settings.get("config_groups")
    found = groups.values() if isinstance(groups, Mapping) else ()
    weights = (group.get("weights") for group in found if isinstance(group, Mapping))
    return [each for each in weights if isinstance(each, Mapping)]


def floats(dtype: str) -> bool:
    """Whether scales may be of this type."""
    return is_known(dtype) and dtype in ("F32", "BF16", "F16")

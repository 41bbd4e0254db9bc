"""A GGUF file: its header, and where each tensor is in it. All of this is known before a tensor is read."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from merging.gguf.layout import GgufLayout, LaidOut
from merging.gguf.types import FileType, TensorType, UnquantizedTensor, tensor_types

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
# Types of a key's value.
_UINT32 = 4


@dataclass(frozen=True)
class Placed:
    """A tensor in a file.

    Args:
        tensor: as the layout has it
        type: that it is stored in
        offset: of its first byte in the file
    """

    tensor: LaidOut
    type: TensorType
    offset: int

    @property
    def bytes(self) -> int:
        return self.tensor.rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.tensor.width)

    @property
    def padding(self) -> int:
        """Bytes between its last one and the next tensor."""
        return -self.bytes % ALIGNMENT


@dataclass(frozen=True)
class GgufFile:
    """A file that is to be written.

    Args:
        filename: of the result
        kind: of file
        layout: of the model
    """

    filename: str
    kind: FileType
    layout: GgufLayout

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """The type of each tensor, by name."""
        stored = [UnquantizedTensor(t.name, t.width, t.is_float32) for t in self.layout.tensors]
        return tensor_types(self.kind, stored, self.layout.shape)

    @cached_property
    def places(self) -> Sequence[Placed]:
        places, offset = [], len(self.header)
        for tensor in self.layout.tensors:
            places.append(Placed(tensor, self.types[tensor.name], offset))
            offset += places[-1].bytes + places[-1].padding
        return places

    @cached_property
    def header(self) -> bytes:
        """The keys and the table of tensors, padded to where the first tensor begins."""
        table, offset = bytearray(), 0
        for tensor in self.layout.tensors:
            placed = Placed(tensor, self.types[tensor.name], offset)
            dimensions = tuple(reversed(tensor.shape))
            table += _text(tensor.name) + struct.pack("<I", len(dimensions))
            table += struct.pack(f"<{len(dimensions)}QIQ", *dimensions, placed.type.number, offset)
            offset += placed.bytes + placed.padding
        layout = self.layout
        start = MAGIC + struct.pack("<IQQ", VERSION, len(layout.tensors), layout.key_count + 1)
        kind = _text("general.file_type") + struct.pack("<II", _UINT32, self.kind.number)
        found = start + layout.keys + kind + table
        return found + bytes(-len(found) % ALIGNMENT)

    @cached_property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(placed.bytes + placed.padding for placed in self.places)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded

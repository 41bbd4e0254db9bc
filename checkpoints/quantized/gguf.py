"""The tensors of GGUF files, under the names that transformers gives them.

Rows are cut into blocks, which can be computed alone. llama.cpp has the experts of a layer in one tensor, rotates
neighbouring rows of a head where transformers rotates rows that are half a head apart, and adds 1 to Gemma's norms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from checkpoints.formats.header import TensorHeader
from checkpoints.gguf.architectures import FREQUENCIES, OUTSIDE, GgufArchitecture, architecture_of
from checkpoints.gguf.blocks import FLOATS, BlockType, named_type, numbers
from checkpoints.gguf.header import MAX_TENSORS
from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect, number

if TYPE_CHECKING:
    from torch import Tensor

METHOD = "gguf"
NAME = re.compile(r"blk\.(?P<layer>\d+)\.(?P<module>\w+?)(?:\.(?P<expert>\d+))?\.(?P<kind>weight|bias)")
# Bytes that are held of a tensor whose rows are in another order.
PART = 8 << 20


class _Gguf:
    name = "GGUF"
    left_out: tuple[str, ...] = FREQUENCIES

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        if stored.settings.get("quant_method") != METHOD:
            return {}
        architecture = architecture_of(str(stored.settings.get("model_type")))
        expect(architecture is not None, "model_type", "it is not known")
        assert architecture
        heads = {
            "attn_q": number(stored.settings, "heads", 0),
            "attn_k": number(stored.settings, "kv_heads", 0),
        }
        found: dict[str, QuantizedTensor] = {}
        for header in stored.headers.values():
            if header.name not in FREQUENCIES:
                found |= dict(_plain(stored, header, architecture, heads))
        return found


def _plain(
    stored: StoredTensors, header: TensorHeader, architecture: GgufArchitecture, heads: Mapping[str, int]
) -> Iterator[tuple[str, QuantizedTensor]]:
    """The tensors of transformers that a stored one holds, by name."""
    name, shape = header.name, header.shape
    module, _, kind = name.rpartition(".")
    if module in OUTSIDE:
        added = architecture.added_to_norms if module == "output_norm" else 0
        yield f"{OUTSIDE[module]}.{kind}", _GgufTensor(stored, name, shape, added=added)
        return
    match = NAME.fullmatch(name)
    expect(match is not None, name, f"a model of type {architecture.model_type} has no such tensor")
    assert match
    called = match["module"] + ("_exps" if match["expert"] else "")
    inside = architecture.layer.get(called, "")
    expect(inside != "", name, f"a model of type {architecture.model_type} has no such tensor")
    whole = f"model.layers.{match['layer']}.{inside}.{match['kind']}"
    if match["expert"]:
        yield whole.format(match["expert"]), _GgufTensor(stored, name, shape)
    elif "{}" in inside:
        is_stack = len(shape) == 3 and shape[0] <= MAX_TENSORS
        expect(is_stack, name, f"{list(shape)} is not (experts, rows, width)")
        for expert in range(shape[0]):
            yield whole.format(expert), _GgufTensor(stored, name, shape[1:], first=expert * shape[1])
    elif called == "ffn_gate_inp_shexp" and len(shape) == 1:
        yield whole, _GgufTensor(stored, name, (1, *shape))
    else:
        turned = heads.get(called, 0) if architecture.interleaves_heads else 0
        added = architecture.added_to_norms if inside.endswith("norm") else 0
        yield whole, _GgufTensor(stored, name, shape, heads=turned, added=added)


class _GgufTensor(QuantizedTensor):
    """
    Args:
        name: of the stored tensor
        first: row of it that is the first of this one
        heads: into which rows are cut whose halves lie in pairs; 0 leaves rows as they are
        added: to each number when the file was written
    """

    def __init__(
        self,
        stored: StoredTensors,
        name: str,
        shape: tuple[int, ...],
        first: int = 0,
        heads: int = 0,
        added: int = 0,
    ):
        super().__init__(stored, shape, (name,))
        kind = named_type(stored.headers[name].dtype)
        expect(kind is not None, name, f"type {stored.headers[name].dtype} cannot be read")
        assert kind
        self.kind: BlockType = kind
        self.first, self.added = first, added
        self.row_bytes = self.width // kind.elements * kind.nbytes
        self.is_rounded = kind.name not in FLOATS
        # Of a bias, the entries are turned.
        self.head = shape[0] // heads if heads else 0
        is_even = not heads or (shape[0] == self.head * heads and self.head % 2 == 0)
        expect(is_even, name, f"{shape[0]} rows are not {heads} heads of an even number of rows")

    @property
    def nbytes(self) -> int:
        return self.count * self.row_bytes

    @property
    def count(self) -> int:
        """Rows of it."""
        return super().part_rows

    @property
    def part_rows(self) -> int:
        if self.head and len(self.shape) > 1:
            return self.head * max(1, PART // (self.head * self.row_bytes))
        return self.count

    def hold(self, part: int) -> tuple[Tensor, ...]:
        if not self.head:
            return ()
        first = part * self.part_rows
        return (self._stored(first, min(first + self.part_rows, self.count)),)

    def _stored(self, first: int, end: int) -> Tensor:
        """Rows as they are stored, as bytes (end - first, bytes of a row)."""
        import torch

        data = bytearray((end - first) * self.row_bytes)
        self.stored.read_into(self.pieces[0], (self.first + first) * self.row_bytes, memoryview(data))
        return torch.frombuffer(data, dtype=torch.uint8).view(end - first, self.row_bytes)

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        import torch

        if not held:
            packed = self._stored(first, end)
        elif len(self.shape) == 1:
            (packed,) = held
        else:
            begin = first // self.part_rows * self.part_rows
            packed = held[0][self._places(first, end) - begin]
        found = torch.from_numpy(numbers(packed.numpy(), self.kind))
        if held and len(self.shape) == 1:
            found = found[:, self._places(0, self.width)]
        return found - self.added if self.added else found

    def _places(self, first: int, end: int) -> Tensor:
        """Where rows of transformers are among the stored ones: those of a head's first half before even places."""
        import torch

        row = torch.arange(first, end)
        inside = row % self.head
        half = self.head // 2
        return row - inside + 2 * (inside % half) + inside // half


GGUF = _Gguf()

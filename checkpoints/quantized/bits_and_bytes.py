"""The forms of bitsandbytes: nf4 and fp4 in blocks (QLoRA, arXiv 2305.14314), and int8 by row (arXiv 2208.07339).

Four bits: `W` (n, 1) bytes with the high nibble first, `W.absmax` of each block, a table `W.quant_map`, and
`W.quant_state.bitsandbytes__nf4`, JSON in bytes. `absmax` may be quantized itself, by `nested_absmax` and
`nested_quant_map`.
Eight bits: `W` int8, `SCB`, the largest magnitude of each row, and perhaps `weight_format`, 0 where the rows are whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from checkpoints.dtypes import FLOATS, safetensors_name
from checkpoints.json_value import parse_json
from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect, number

if TYPE_CHECKING:
    from torch import Tensor

STATES = tuple(f".quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
# Bytes of a state, which is read to know a tensor's shape.
LONGEST_STATE = 4096
READS = 16


class _FourBits:
    name = "bitsandbytes 4 bit"
    left_out: tuple[str, ...] = ()

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        names = {name + state: name for state in STATES for name in stored.suffixed(state, "U8")}
        with ThreadPoolExecutor(READS) as pool:  # each is a request where the model is remote
            states = list(pool.map(lambda state: _read_state(stored, state), names))
        return {
            name: _FourBitTensor(stored, name, state, found)
            for (state, name), found in zip(names.items(), states, strict=True)
        }


def _read_state(stored: StoredTensors, name: str) -> dict[str, Any]:
    expect(stored.headers[name].nbytes <= LONGEST_STATE, name, "it is too long")
    try:
        found = parse_json(bytes(stored.whole(name).tolist()))
    except ValueError:
        found = None
    expect(isinstance(found, dict), name, "it is not JSON")
    return dict(found)


class _FourBitTensor(QuantizedTensor):
    """Its rows, those that can be computed alone, are blocks."""

    def __init__(self, stored: StoredTensors, name: str, state_name: str, state: Mapping[str, Any]):
        shape = state.get("shape")
        is_shape = isinstance(shape, list) and all(isinstance(axis, int) and axis > 0 for axis in shape)
        expect(is_shape, state_name, f"{shape!r} is no shape")
        self.is_nested = f"{name}.nested_absmax" in stored.headers
        parts = ("absmax", "quant_map", *(("nested_absmax", "nested_quant_map") if self.is_nested else ()))
        pieces = (name, *(f"{name}.{part}" for part in parts), state_name)
        for piece in pieces:
            expect(piece in stored.headers, piece, "it is missing")
        super().__init__(stored, tuple(shape or ()), pieces, _dtype(state, stored.dtype))
        self.name = name
        self.block = number(state, "blocksize", 64)
        self.nested_block = number(state, "nested_blocksize", 256)
        self.offset = float(state.get("nested_offset") or 0)
        elements, header = math.prod(self.shape), stored.headers[name]
        expect(
            header.dtype == "U8" and header.elements == -(-elements // 2),
            name,
            f"it is not {shape} of 4 bits",
        )
        expect(self.block > 0 and self.block % 2 == 0 and self.nested_block > 0, state_name, "its blocks")
        blocks = -(-elements // self.block)
        expect(stored.headers[pieces[1]].elements == blocks, pieces[1], f"it is not of {blocks} blocks")
        expect(stored.headers[pieces[2]].elements == 16, pieces[2], "it has not 16 entries")

    @property
    def width(self) -> int:
        return self.block

    @property
    def part_rows(self) -> int:
        return -(-math.prod(self.shape) // self.block)

    def hold(self, part: int) -> tuple[Tensor, ...]:
        import torch

        scales, table, *nested = (self.stored.whole(name) for name in self.pieces[1:-1])
        if nested:
            of_nested, nested_table = (each.float().flatten() for each in nested)
            at = torch.arange(scales.numel()) // self.nested_block
            scales = nested_table[scales.flatten().long()] * of_nested[at] + self.offset
        return scales.float().flatten(), table.float().flatten()

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        import torch

        scales, table = held
        last = min(end * self.block // 2, self.stored.headers[self.name].elements)
        packed = self.stored.elements(self.name, first * self.block // 2, last)
        numbers = torch.zeros((end - first) * self.block)
        numbers[: 2 * len(packed) : 2] = table[(packed >> 4).long()]
        numbers[1 : 2 * len(packed) : 2] = table[(packed & 15).long()]
        return numbers.view(-1, self.block).mul_(scales[first:end, None])


def _dtype(state: Mapping[str, Any], default: str) -> str:
    try:
        found = safetensors_name(str(state.get("dtype")))
    except KeyError:
        return default
    return found if found in FLOATS else default


class _Int8:
    name = "bitsandbytes 8 bit"
    left_out: tuple[str, ...] = ()

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        modules = stored.suffixed(".SCB")
        return {f"{module}.weight": _Int8Tensor(stored, module) for module in modules}


class _Int8Tensor(QuantizedTensor):
    def __init__(self, stored: StoredTensors, module: str):
        name, scale = f"{module}.weight", f"{module}.SCB"
        header = stored.headers.get(name)
        is_matrix = header is not None and header.dtype == "I8" and len(header.shape) == 2
        expect(is_matrix, name, "it is no matrix of int8")
        assert header
        expect(
            stored.headers[scale].elements == header.shape[0], scale, "it does not have an entry for each row"
        )
        layout = f"{module}.weight_format"
        pieces = (name, scale, *((layout,) if layout in stored.headers else ()))
        super().__init__(stored, header.shape, pieces)

    def hold(self, part: int) -> tuple[Tensor, ...]:
        for layout in self.pieces[2:]:
            expect(not self.stored.whole(layout).any(), layout, "the rows are cut into tiles")
        return (self.stored.whole(self.pieces[1]).float().flatten(),)

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        return self.stored.rows(self.pieces[0], first, end).float() * held[0][first:end, None] / 127


BITS_AND_BYTES = _FourBits()
BITS_AND_BYTES_INT8 = _Int8()

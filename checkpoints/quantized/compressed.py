"""Integers of compressed-tensors: packed (`pack-quantized`), or one in each int8 (`int-quantized`).

Packed: `weight_packed` (rows, words) int32 along the row, `weight_scale` (rows, groups), `weight_shape` (2,), and
perhaps `weight_zero_point`, packed along the rows, and `weight_g_idx` (columns,), the group of each column. Integers
are stored with half of their range added, zero points too.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect, floats, settings_of_weights
from checkpoints.quantized.packing import BITS, unpacked

if TYPE_CHECKING:
    from torch import Tensor

READS = 16


class _Packed:
    name = "compressed-tensors"
    left_out: tuple[str, ...] = ()

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        names = stored.suffixed("_packed", "I32")
        if not names:
            return {}
        bits = _bits(stored.settings)
        with ThreadPoolExecutor(READS) as pool:  # each is a request where the model is remote
            shapes = list(pool.map(lambda name: _shape(stored, name), names))
        return {
            name: _PackedTensor(stored, name, shape, bits) for name, shape in zip(names, shapes, strict=True)
        }


def _bits(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of bits that the config names."""
    named = {each.get("num_bits") for each in settings_of_weights(settings)}
    found = tuple(bits for bits in BITS if bits in named)
    expect(bool(found), "config_groups", f"no weights of {', '.join(map(str, BITS))} bits")
    return found


def _shape(stored: StoredTensors, name: str) -> tuple[int, int]:
    header = stored.headers.get(f"{name}_shape")
    is_pair = header is not None and header.dtype in ("I64", "I32") and header.shape == (2,)
    expect(is_pair, f"{name}_shape", "it is missing, or no pair of whole numbers")
    rows, columns = stored.whole(f"{name}_shape").tolist()
    return int(rows), int(columns)


class _PackedTensor(QuantizedTensor):
    def __init__(self, stored: StoredTensors, name: str, shape: tuple[int, int], bits: tuple[int, ...]):
        packed, scales = stored.headers[f"{name}_packed"], stored.headers.get(f"{name}_scale")
        rows, columns = shape
        fitting = [b for b in bits if packed.shape == (rows, -(-columns // (32 // b)))]
        expect(
            len(fitting) == 1 and columns > 0,
            packed.name,
            f"{list(packed.shape)} is not {list(shape)}, packed",
        )
        is_scale = scales is not None and floats(scales.dtype) and scales.shape[:1] == (rows,)
        expect(is_scale, f"{name}_scale", "it is missing, or does not have a row for each row")
        assert scales
        parts = ("packed", "scale", "shape", "zero_point", "g_idx")
        pieces = tuple(f"{name}_{part}" for part in parts if f"{name}_{part}" in stored.headers)
        super().__init__(stored, shape, pieces)
        self.name = name
        self.bits = fitting[0]
        self.groups = scales.elements // rows
        expect(
            self.groups > 0 and columns % self.groups == 0, scales.name, "its groups are of different sizes"
        )

    def _piece(self, part: str) -> Tensor | None:
        name = f"{self.name}_{part}"
        return self.stored.whole(name) if name in self.pieces else None

    def hold(self, part: int) -> tuple[Tensor, ...]:
        import torch

        rows, columns = self.shape
        scales = self.stored.whole(f"{self.name}_scale").float().view(rows, self.groups)
        index = self._piece("g_idx")
        is_ordered = index is None or bool((index < 0).all())
        group = (
            torch.arange(columns) // (columns // self.groups) if is_ordered or index is None else index.long()
        )
        is_known = group.shape == (columns,) and bool(((group >= 0) & (group < self.groups)).all())
        expect(is_known, f"{self.name}_g_idx", "it names other groups")
        stored = self._piece("zero_point")
        if stored is None:
            zeros = torch.full((rows, self.groups), 1 << (self.bits - 1), dtype=torch.int32)
        elif stored.dtype is torch.int32:
            zeros = unpacked(stored.view(-1, self.groups), self.bits, axis=0)[:rows]
        else:
            zeros = stored.int().view(rows, self.groups) + (1 << (self.bits - 1))
        return scales, zeros, group

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        scales, zeros, group = held
        packed = self.stored.rows(f"{self.name}_packed", first, end)
        integers = unpacked(packed, self.bits, axis=1)[:, : self.width]
        return (integers - zeros[first:end][:, group]).float() * scales[first:end][:, group]


class _Integers:
    name = "int8"
    left_out: tuple[str, ...] = ()

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        return {
            name: _IntegerTensor(stored, name)
            for name, header in stored.headers.items()
            if header.dtype == "I8" and f"{name}_scale" in stored.headers
        }


class _IntegerTensor(QuantizedTensor):
    def __init__(self, stored: StoredTensors, name: str):
        header, scales = stored.headers[name], stored.headers[f"{name}_scale"]
        expect(len(header.shape) == 2, name, "it is no matrix")
        rows, columns = header.shape
        self.groups = max(scales.elements // max(rows, 1), 1)
        is_fitting = scales.elements in (1, rows * self.groups) and columns % self.groups == 0
        expect(floats(scales.dtype) and is_fitting, scales.name, "it does not fit the integers")
        zeros = f"{name}_zero_point"
        super().__init__(
            stored, header.shape, (name, scales.name, *((zeros,) if zeros in stored.headers else ()))
        )

    def hold(self, part: int) -> tuple[Tensor, ...]:
        import torch

        scales, *zeros = (self.stored.whole(name).float() for name in self.pieces[1:])
        every = (self.shape[0], self.groups)
        filled = [each.view(-1, self.groups).expand(every) for each in (scales, *zeros)]
        return (*filled, torch.zeros(every)) if len(filled) == 1 else tuple(filled)

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        import torch

        group = torch.arange(self.width) // (self.width // self.groups)
        scales, zeros = (each[first:end][:, group] for each in held)
        return (self.stored.rows(self.pieces[0], first, end).float() - zeros) * scales


PACKED = _Packed()
INTEGERS = _Integers()

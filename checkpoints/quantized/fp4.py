"""Four-bit floats (E2M1), two in a byte, in groups along the row: NVFP4 and MXFP4 of compressed-tensors and modelopt.

compressed-tensors: `weight_packed` (rows, columns / 2) bytes with the low nibble first, `weight_scale` (rows, groups),
and `weight_global_scale`, which divides. modelopt: `weight`, `weight_scale`, and `weight_scale_2`, which multiplies.
Scales are E4M3, or exponents of two in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect

if TYPE_CHECKING:
    from torch import Tensor

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = (*MAGNITUDES, *(-value for value in MAGNITUDES))
SCALES = ("F8_E4M3", "U8", "F8_E8M0")


class _Fp4:
    name = "fp4"
    left_out: tuple[str, ...] = ("_global_scale", ".input_scale")

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        names = {name: f"{name}_packed" for name in stored.suffixed("_packed", "U8")}
        names |= {
            name: name
            for name in stored.suffixed("", "U8")
            if f"{name}_scale" in stored.headers and f"{name}_scale_2" in stored.headers
        }
        return {name: _Fp4Tensor(stored, name, packed) for name, packed in names.items()}


class _Fp4Tensor(QuantizedTensor):
    def __init__(self, stored: StoredTensors, name: str, packed: str):
        header, scales = stored.headers[packed], stored.headers.get(f"{name}_scale")
        is_scale = scales is not None and scales.dtype in SCALES and scales.shape[:-1] == header.shape[:-1]
        expect(is_scale, f"{name}_scale", "it is missing, or does not fit the bytes")
        assert scales
        *outer, half = header.shape
        expect(
            len(outer) > 0 and 2 * half % max(scales.shape[-1], 1) == 0, packed, "its groups differ in size"
        )
        of_all = (f"{name}_global_scale", f"{name}_scale_2")
        pieces = (packed, scales.name, *(part for part in of_all if part in stored.headers))
        super().__init__(stored, (*outer, 2 * half), pieces)
        self.divides = pieces[-1] == of_all[0]
        self.is_exponent = scales.dtype != SCALES[0]
        for piece in pieces[2:]:
            fits = stored.headers[piece].elements == 1 and stored.headers[piece].dtype == "F32"
            expect(fits, piece, "it is not one number of float32")

    def hold(self, part: int) -> tuple[Tensor, ...]:
        import torch

        scales = self.stored.whole(self.pieces[1])
        scales = torch.exp2(scales.view(torch.uint8).float() - 127) if self.is_exponent else scales.float()
        for name in self.pieces[2:]:
            of_all = self.stored.whole(name).view(())
            scales = scales / of_all if self.divides else scales * of_all
        return (scales.view(-1, scales.shape[-1]),)

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        import torch

        (scales,) = held
        packed = self.stored.rows(self.pieces[0], first, end)
        table = torch.tensor(VALUES)
        numbers = torch.stack((table[(packed & 15).long()], table[(packed >> 4).long()]), dim=-1)
        grouped = numbers.view(end - first, scales.shape[-1], -1)
        return grouped.mul_(scales[first:end, :, None]).flatten(1)


FP4 = _Fp4()

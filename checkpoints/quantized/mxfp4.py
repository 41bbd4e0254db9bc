"""MXFP4, as in gpt-oss: four-bit floats in groups of 32 with an eight-bit exponent (OCP Microscaling Formats 1.0).

`X_blocks` holds (experts, rows, groups, 16) bytes, the low nibble first, and `X_scales` (experts, rows, groups)
exponents. The plain tensor is (experts, groups x 32, rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect
from checkpoints.quantized.fp4 import VALUES

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS, SCALES = "_blocks", "_scales"
GROUP = 32


class _Mxfp4:
    name = "mxfp4"
    left_out: tuple[str, ...] = ()

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        names = stored.suffixed(BLOCKS, "U8")
        return {name: _Mxfp4Tensor(stored, name) for name in names if name + SCALES in stored.headers}


class _Mxfp4Tensor(QuantizedTensor):
    def __init__(self, stored: StoredTensors, name: str):
        blocks, scales = stored.headers[name + BLOCKS], stored.headers[name + SCALES]
        is_whole = len(blocks.shape) == 4 and blocks.shape[-1] * 2 == GROUP
        expect(is_whole, blocks.name, f"{list(blocks.shape)} is not (experts, rows, groups, 16)")
        expect(
            scales.dtype == "U8" and scales.shape == blocks.shape[:-1],
            scales.name,
            "it does not fit the blocks",
        )
        experts, rows, groups, _ = blocks.shape
        super().__init__(stored, (experts, groups * GROUP, rows), (blocks.name, scales.name))

    @property
    def part_rows(self) -> int:
        return self.shape[1]

    def hold(self, part: int) -> tuple[Tensor, ...]:
        _, width, rows = self.shape
        groups = rows * width // GROUP
        blocks = self.stored.elements(self.pieces[0], part * groups * 16, (part + 1) * groups * 16)
        scales = self.stored.elements(self.pieces[1], part * groups, (part + 1) * groups)
        return blocks.view(rows, -1, 16), scales.view(rows, -1)

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        import torch

        blocks, scales = held
        first, end = first % self.part_rows, (end - 1) % self.part_rows + 1
        groups = slice(first // GROUP, -(-end // GROUP))
        packed = blocks[:, groups]
        table = torch.tensor(VALUES)
        numbers = torch.stack((table[(packed & 15).long()], table[(packed >> 4).long()]), dim=-1)
        numbers = torch.ldexp(numbers.flatten(2), scales[:, groups, None].int() - 127)
        begin = groups.start * GROUP
        return numbers.flatten(1)[:, first - begin : end - begin].T.contiguous()


MXFP4 = _Mxfp4()

"""Eight-bit floats with scales: of a tensor, of its rows, or of blocks of it.

As transformers writes them (`fp8`: `weight` and `weight_scale_inv`, which multiplies in spite of its name), and
compressed-tensors, fbgemm and modelopt (`weight` and `weight_scale`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect, floats, settings_of_weights

if TYPE_CHECKING:
    from torch import Tensor

SCALES = ("_scale_inv", "_scale")
EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
# Scales that are powers of two: the exponent plus 127.
EXPONENTS = ("U8", "F8_E8M0")
BLOCK = (128, 128)


class _Fp8:
    name = "fp8"
    left_out: tuple[str, ...] = (
        ".input_scale",
        ".activation_scale",
        ".k_scale",
        ".v_scale",
        ".input_scale_ub",
    )

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        return dict(self._found(stored))

    def _found(self, stored: StoredTensors) -> Iterator[tuple[str, QuantizedTensor]]:
        for name, header in stored.headers.items():
            scale = next((name + ending for ending in SCALES if name + ending in stored.headers), None)
            if header.dtype in EIGHT_BITS and scale:
                yield name, _Fp8Tensor(stored, name, scale)


class _Fp8Tensor(QuantizedTensor):
    def __init__(self, stored: StoredTensors, name: str, scale: str):
        super().__init__(stored, stored.headers[name].shape, (name, scale))
        self.name = name
        self.scale = scale
        header = stored.headers[scale]
        expect(floats(header.dtype) or header.dtype in EXPONENTS, scale, f"scales of type {header.dtype}")
        expect(len(self.shape) >= 1, name, "it is a scalar")
        self.block = self._block(header.shape, block_size(stored.settings))

    def _block(self, scales: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns for which a scale counts."""
        *outer, height, width = (1, *self.shape)[-max(len(self.shape), 2) :]
        if all(axis == 1 for axis in scales):
            return self.part_rows * max(width, 1), max(width, 1)
        if scales in ((*outer, height, 1), (*outer, height), self.shape[:-1]):
            return 1, max(width, 1)
        if scales in ((*outer, 1, 1), tuple(outer)):
            return height, max(width, 1)
        grid = (*outer, -(-height // size[0]), -(-width // size[1]))
        expect(scales == grid, self.scale, f"{list(scales)} scales do not fit {list(self.shape)}")
        return size

    def hold(self, part: int) -> tuple[Tensor, ...]:
        import torch

        scales = self.stored.whole(self.scale)
        if self.stored.headers[self.scale].dtype in EXPONENTS:
            scales = torch.exp2(scales.view(torch.uint8).float() - 127)
        return (scales.float(),)

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        import torch

        (scales,) = held
        numbers = self.stored.rows(self.name, first, end).float()
        if scales.numel() == 1:
            return numbers.mul_(scales.view(()))
        height = self.shape[-2] if len(self.shape) > 1 else 1
        grid = scales.view(-1, -(-self.width // self.block[1]))
        at = torch.arange(first, end)
        per_matrix = -(-height // self.block[0])
        chosen = grid[at // height * per_matrix + at % height // self.block[0]]
        columns = torch.arange(self.width) // self.block[1]
        return numbers.mul_(chosen[:, columns])


def block_size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block of scales."""
    found: object = settings.get("weight_block_size")
    for weights in settings_of_weights(settings) if found is None else ():
        if isinstance(size := weights.get("group_size"), int) and size > 0:
            found = found or [1, size]
        found = found or weights.get("block_structure")
    if found is None:
        return BLOCK
    sizes = (
        [axis for axis in found if isinstance(axis, int) and axis > 0] if isinstance(found, Sequence) else []
    )
    expect(len(sizes) == 2, "weight_block_size", f"{found!r} is no pair of sizes")
    return sizes[0], sizes[1]


FP8 = _Fp8()

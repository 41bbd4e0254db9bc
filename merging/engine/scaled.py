"""Rounding to eight-bit floats with scales, as a stream: a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from merging.fp8 import LARGEST, Fp8

if TYPE_CHECKING:
    from torch import Tensor

# Elements of a band, where it may have any number of rows.
BAND = 128 * 1024


def rows_of_band(form: Fp8, shape: Sequence[int]) -> int:
    """How many rows are rounded at once."""
    height, width = form.block
    return height if width else max(1, min(shape[0], BAND // shape[1]))


def held(form: Fp8, shape: Sequence[int]) -> int:
    """Bytes that rounding a matrix holds: a band in float32, its absolute values, its quotients, and the result."""
    return rows_of_band(form, shape) * shape[1] * (4 + 4 + 4 + 1)


def bands(blocks: Iterable[tuple[int, memoryview]], rows: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """The rows of a matrix, with the number of the first: up to `rows` at a time, float32 (n, width).

    The next step reuses the memory.

    Args:
        blocks: all its numbers as float32, in order
    """
    import torch

    band = torch.empty(rows * width)
    filled = first = 0
    for _, block in blocks:
        numbers = torch.frombuffer(block, dtype=torch.float32)
        while len(numbers):
            part = numbers[: len(band) - filled]
            band[filled : filled + len(part)] = part
            filled, numbers = filled + len(part), numbers[len(part) :]
            if filled == len(band):
                yield first, band.view(rows, width)
                first, filled = first + rows, 0
    if filled:
        yield first, band[:filled].view(-1, width)


def as_bytes(numbers: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    import torch

    return numbers.flatten().view(torch.uint8).numpy().data


def rounded(band: Tensor, form: Fp8) -> tuple[Tensor, Tensor]:
    """The scales of whole blocks of rows, float32, and the numbers divided by them, rounded to eight bits.

    A scale takes the largest number of its block to the largest that eight bits hold. That of a block of zeros is 1.

    Args:
        band: float32 (n, width); n is a multiple of a block's height

    Returns:
        Scales of shape `form.grid((n, width))`, and float8_e4m3fn (n, width).
    """
    import torch

    height, across = form.grid(band.shape)
    blocks = band.view(height, form.block[0], across, -1)
    scales = blocks.abs().amax((1, 3), keepdim=True) / LARGEST
    scales.masked_fill_(scales == 0, 1.0)
    eight = (blocks / scales).to(torch.float8_e4m3fn).view(band.shape)
    return scales.view(height, across), eight

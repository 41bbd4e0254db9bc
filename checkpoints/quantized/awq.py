"""AWQ (arXiv 2306.00978), as AutoAWQ writes it for its GEMM kernels: four bits, packed along the output.

`qweight` (inputs, outputs / 8), `qzeros` (groups, outputs / 8), `scales` (groups, outputs). The plain matrix is
(outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect, floats, number
from checkpoints.quantized.packing import unpacked

if TYPE_CHECKING:
    from torch import Tensor

BITS = 4
# Where the outputs 0 to 7 of a word are in it.
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


class _Awq:
    name = "awq"
    left_out: tuple[str, ...] = ()

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        if stored.settings.get("quant_method") != "awq":
            return {}
        layout = str(stored.settings.get("version", "gemm")).lower()
        expect(layout == "gemm", "version", f"{layout!r} is another layout")
        bits = number(stored.settings, "bits", BITS)
        expect(bits == BITS, "bits", f"{bits} bits are packed in another way")
        modules = stored.suffixed(".qweight", "I32")
        return {f"{module}.weight": _AwqTensor(stored, module) for module in modules}


class _AwqTensor(QuantizedTensor):
    def __init__(self, stored: StoredTensors, module: str):
        names = tuple(f"{module}.{part}" for part in ("qweight", "qzeros", "scales"))
        for name in names:
            found = stored.headers.get(name)
            expect(found is not None and len(found.shape) == 2, name, "it is missing, or no matrix")
        packed, zeros, scales = (stored.headers[name] for name in names)
        inputs, outputs = packed.shape[0], packed.shape[1] * 32 // BITS
        super().__init__(stored, (outputs, inputs), names)
        self.groups = scales.shape[0]
        expect(floats(scales.dtype) and scales.shape[1] == outputs, scales.name, "it does not fit qweight")
        is_fitting = zeros.dtype == "I32" and zeros.shape == (self.groups, packed.shape[1])
        expect(is_fitting, zeros.name, "it does not fit the scales")
        expect(
            self.groups > 0 and inputs % self.groups == 0, scales.name, "its groups are of different sizes"
        )

    def hold(self, part: int) -> tuple[Tensor, ...]:
        packed, zeros, scales = (self.stored.whole(name) for name in self.pieces)
        return packed, unpacked(zeros, BITS, axis=1, order=ORDER), scales.float()

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        import torch

        packed, zeros, scales = held
        words = slice(first // 8, -(-end // 8))
        columns = slice(first - words.start * 8, end - words.start * 8)
        integers = unpacked(packed[:, words], BITS, axis=1, order=ORDER)[:, columns]
        group = torch.arange(len(packed)) // (len(packed) // self.groups)
        return ((integers - zeros[group, first:end]).float() * scales[group, first:end]).T.contiguous()


AWQ = _Awq()

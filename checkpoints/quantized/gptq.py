"""GPTQ (arXiv 2210.17323), as AutoGPTQ and GPTQModel write it: integers packed along the input, in groups.

`qweight` (inputs x bits / 32, outputs), `qzeros` (groups, outputs x bits / 32), `scales` (groups, outputs), and `g_idx`
(inputs,), the group of each input. The plain matrix is (outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from checkpoints.quantized.form import QuantizedTensor, StoredTensors, expect, floats, number
from checkpoints.quantized.packing import BITS, unpacked

if TYPE_CHECKING:
    from torch import Tensor


class _Gptq:
    name = "gptq"
    left_out: tuple[str, ...] = ()

    def find(self, stored: StoredTensors) -> Mapping[str, QuantizedTensor]:
        if stored.settings.get("quant_method") != "gptq":
            return {}
        layout = stored.settings.get("checkpoint_format", "gptq")
        expect(layout in ("gptq", "gptq_v2"), "checkpoint_format", f"{layout!r} is another layout")
        bits = number(stored.settings, "bits", 4)
        expect(bits in BITS, "bits", f"{bits} bits are packed in another way")
        modules = stored.suffixed(".qweight", "I32")
        return {
            f"{module}.weight": _GptqTensor(stored, module, bits, 1 if layout == "gptq" else 0)
            for module in modules
        }


class _GptqTensor(QuantizedTensor):
    """
    Args:
        added: to the stored zero points, which wrap around
    """

    def __init__(self, stored: StoredTensors, module: str, bits: int, added: int):
        names = [f"{module}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")]
        for name in names[:3]:
            found = stored.headers.get(name)
            expect(found is not None and len(found.shape) == 2, name, "it is missing, or no matrix")
        packed, zeros, scales = (stored.headers[name] for name in names[:3])
        outputs, inputs = packed.shape[1], packed.shape[0] * 32 // bits
        pieces = tuple(name for name in names if name in stored.headers)
        super().__init__(stored, (outputs, inputs), pieces)
        self.bits, self.added = bits, added
        self.groups = scales.shape[0]
        expect(floats(scales.dtype) and scales.shape[1] == outputs, scales.name, "it does not fit qweight")
        is_fitting = zeros.dtype == "I32" and zeros.shape == (self.groups, outputs * bits // 32)
        expect(is_fitting, zeros.name, "it does not fit the scales")
        if len(pieces) == 4:
            index = stored.headers[names[3]]
            expect(
                index.dtype in ("I32", "I64") and index.shape == (inputs,),
                names[3],
                "it does not fit qweight",
            )
        else:
            expect(
                self.groups > 0 and inputs % self.groups == 0,
                scales.name,
                "its groups are of different sizes",
            )

    def hold(self, part: int) -> tuple[Tensor, ...]:
        import torch

        packed, zeros, scales, *index = (self.stored.whole(name) for name in self.pieces)
        inputs = self.shape[1]
        group = index[0].long() if index else torch.arange(inputs) // (inputs // self.groups)
        expect(bool(((group >= 0) & (group < self.groups)).all()), self.pieces[-1], "it names other groups")
        # A zero point of 0 is stored as the largest integer, one less than it.
        points = (unpacked(zeros, self.bits, axis=1) + self.added) & ((1 << self.bits) - 1)
        return packed, points, scales.float(), group

    def rows(self, first: int, end: int, held: tuple[Tensor, ...]) -> Tensor:
        packed, zeros, scales, group = held
        integers = unpacked(packed[:, first:end], self.bits, axis=0) - zeros[group, first:end]
        return (integers.float() * scales[group, first:end]).T.contiguous()


GPTQ = _Gptq()

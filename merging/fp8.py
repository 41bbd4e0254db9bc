"""Weights as eight-bit floats with scales: how recipes name them, their scales, and what a config says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# By safetensors' name, and its largest number.
DTYPE, LARGEST = "F8_E4M3", 448.0


@dataclass(frozen=True)
class Fp8:
    """A form of eight-bit weights.

    Args:
        name: in recipes
        suffix: of a weight's name, for its scales, which multiply
        block: rows and columns that share a scale; columns are 0 where it is the whole row
        multiple: what rows and columns have to be multiples of, for programs that compute with the weights
    """

    name: str
    suffix: str
    block: tuple[int, int]
    multiple: int

    def grid(self, shape: Sequence[int]) -> tuple[int, int]:
        """The shape of the scales of a matrix."""
        height, width = self.block
        return shape[0] // height, shape[1] // width if width else 1

    def scale_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of the scales of a matrix, in float32."""
        return 4 * math.prod(self.grid(shape))

    def fits(self, shape: Sequence[int]) -> bool:
        return all(size > 0 and size % self.multiple == 0 for size in shape)

    def settings(self, plain: Sequence[str]) -> dict[str, Any]:
        """The config's `quantization_config`, as transformers and vLLM read it; programs quantize activations by token.

        Args:
            plain: names of modules whose weights have no scales
        """
        if self.block[1]:
            return {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": list(self.block),
                "modules_to_not_convert": list(plain),
            }
        floats = {"num_bits": 8, "type": "float", "symmetric": True}
        group = {
            "targets": ["Linear"],
            "weights": {**floats, "strategy": "channel", "dynamic": False},
            "input_activations": {**floats, "strategy": "token", "dynamic": True},
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": list(plain),
        }


FP8 = {
    form.name: form
    for form in (
        Fp8("float8_e4m3", "_scale_inv", (128, 128), 128),
        Fp8("float8_e4m3_rows", "_scale", (1, 0), 16),
    )
}
# torch's name of the type.
ALIASES = {"float8_e4m3fn": "float8_e4m3"}

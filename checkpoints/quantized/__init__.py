"""Quantized models as plain numbers: one file a form. To add a form, add it to `FORMS`."""

from __future__ import annotations

from checkpoints.quantized.awq import AWQ
from checkpoints.quantized.bits_and_bytes import BITS_AND_BYTES, BITS_AND_BYTES_INT8
from checkpoints.quantized.compressed import INTEGERS, PACKED
from checkpoints.quantized.form import Form
from checkpoints.quantized.fp4 import FP4
from checkpoints.quantized.fp8 import FP8
from checkpoints.quantized.gguf import GGUF
from checkpoints.quantized.gptq import GPTQ
from checkpoints.quantized.mxfp4 import MXFP4

# A model may mix them. Each sees what those before it left.
FORMS: tuple[Form, ...] = (
    GGUF, PACKED, FP4, MXFP4, BITS_AND_BYTES, BITS_AND_BYTES_INT8, GPTQ, AWQ, INTEGERS, FP8
)  # fmt: skip

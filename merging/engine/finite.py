"""Counts the numbers of a result that are none: infinities, and NaN.

They are counted in the bytes that are written, so that it does not matter how they came about: a number too large for
the dtype, a parent's NaN, an average of both.
"""

from __future__ import annotations

import numpy as np

# The unsigned integers of a dtype's width, and the bits that are all set in a number that is none, and in no other.
EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),
}


def count_not_finite(stored: memoryview, dtype: str) -> int:
    """How many numbers are infinite or NaN.

    Args:
        stored: whole numbers as a file has them
        dtype: by safetensors' name; numbers of others are always finite
    """
    if dtype not in EXPONENTS:
        return 0
    kind, mask = EXPONENTS[dtype]
    bits = np.bitwise_and(np.frombuffer(stored, kind), np.array(mask, kind))
    return int(np.count_nonzero(bits == mask)) if bits.size and bits.max() == mask else 0

"""How quick this processor is at what generating text consists of; measured once, when it is first asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

# A matrix that no processor's cache holds in float32.
_ROWS, _COLUMNS = 8192, 2048
# What is compared: an answer of this many tokens to a question of as many.
_TOKENS = 64


@cache
def generates_quicker(dtype: torch.dtype) -> bool:
    """Whether an answer is generated quicker in this 16-bit dtype than in float32.

    Writing a token reads every weight once, so half the bytes are quicker. Reading a question is arithmetic, for which
    many processors have no 16-bit instructions.
    """
    return _seconds_to_answer(dtype) < _seconds_to_answer(torch.float32)


@cache
def bytes_per_second() -> float:
    """How many bytes of weights are read in a second by what writes one token after the other."""
    matrix = torch.ones(_ROWS, _COLUMNS)
    return matrix.nbytes / _seconds(lambda: matrix @ matrix[0])


@torch.inference_mode()
def _seconds_to_answer(dtype: torch.dtype) -> float:
    matrix, states = torch.ones(_ROWS, _COLUMNS, dtype=dtype), torch.ones(_TOKENS, _COLUMNS, dtype=dtype)
    reading = _seconds(lambda: torch.nn.functional.linear(states, matrix))
    writing = _seconds(lambda: torch.nn.functional.linear(states[:1], matrix))
    return reading + _TOKENS * writing


def _seconds(work: Callable[[], Any]) -> float:
    """The shortest of a few times: what else the machine does only makes them longer."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)

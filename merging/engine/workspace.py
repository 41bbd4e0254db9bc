"""The buffers of one worker: blocks as they are stored and as numbers, made once and used for every tensor."""

from __future__ import annotations

import math
import os
from heapq import nlargest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from checkpoints.dtypes import itemsize, torch_name
from merging.engine import scaled
from merging.engine.prefetch import SLICE, held_by_a_pass, rereads, stored_bytes
from merging.fp8 import FP8
from merging.methods import METHODS, selection

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from merging.plan import Plan, PlannedTensor

# Elements that the arithmetic sees at once, and that are read at once from a folder: small blocks stay in the
# processor's cache. The results do not depend on it.
BLOCK = 128 * 1024


def default_workers() -> int:
    """How many workers merge at a time: one a core, for others read and upload."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def held(plan: Plan, workers: int) -> int:
    """Bytes of all workers' buffers. Each keeps those of the largest tensor that came its way: at worst these are the
    largest of all."""
    again = rereads(plan)
    return sum(nlargest(workers, (_held_for(plan, tensor, again) for tensor in plan.tensors)))


def _held_for(plan: Plan, tensor: PlannedTensor, again: bool) -> int:
    """Bytes that merging a tensor takes, beside what is prefetched for all."""
    method = METHODS[plan.method]
    inputs, width = len(tensor.inputs), itemsize(tensor.dtype)
    block = min(tensor.elements, BLOCK)
    if method.by_rows and tensor.shape:
        block = max(block, tensor.shape[-1])
    stored = math.ceil(stored_bytes(plan, tensor) * block / max(tensor.elements, 1))
    # The inputs as float32, as much again in a method's temporaries, or as float64, and the output.
    blocks = block * (inputs * 4 + max(inputs, 2) * (8 if method.from_products else 4) + width)
    found = stored + (held_by_a_pass(plan, tensor) if again else 0) + blocks
    if tensor.scales:
        found += scaled.held(FP8[tensor.scales], tensor.shape)
    if tensor.copied_from is not None:
        return found
    if method.sparsify:
        found += selection.held(tensor.elements, inputs - 1, 0 if method.sparsify.is_random else 1)
    else:
        found += selection.held(tensor.elements, inputs, 2 if method.measure else 0)
    if method.by_matrices and method.wants_matrices(tensor.parameters):
        found += method.matrices_held(tensor.shape, inputs - 1)
    return found


def torch_dtype(name: str) -> torch.dtype:
    """torch's type for safetensors' name."""
    import torch

    return getattr(torch, torch_name(name))  # type: ignore[no-any-return]


class StoredBlock(NamedTuple):
    """A block of one input or of the output as it is stored, as bytes and as elements of the same memory."""

    raw: memoryview
    elements: Tensor


class Workspace:
    """The buffers of one worker, grown when needed and reused for every tensor.

    Args:
        device: where the arithmetic happens
    """

    # All inputs are read into one buffer, each before the next, so that it stays in the cache.
    INPUT, OUTPUT = 0, 1

    def __init__(self, device: str = "cpu"):
        self.device = device
        # A GPU wants few large blocks, a processor's cache small ones.
        self.block = BLOCK if device == "cpu" else SLICE
        self._bytes: dict[int, NDArray[np.uint8]] = {}
        self._views: dict[tuple[int, str, int], StoredBlock] = {}
        self._rows: dict[tuple[torch.dtype, int], Tensor] = {}

    def stored(self, index: int, dtype: str, count: int) -> StoredBlock:
        """Room for `count` elements of INPUT or OUTPUT, with whatever is in it.

        Making the views costs as much as some of the arithmetic on a block, so they are kept.
        """
        import torch

        view = self._views.get((index, dtype, count))
        if view is None:
            raw = self._room(index, count * itemsize(dtype))
            view = StoredBlock(raw.data, torch.from_numpy(raw).view(torch_dtype(dtype)))
            if count >= self.block // 2:  # of few lengths: a block, or as many whole rows as go into one
                self._views[index, dtype, count] = view
        return view

    def _room(self, index: int, size: int) -> NDArray[np.uint8]:
        if index not in self._bytes or len(self._bytes[index]) < size:
            self._bytes[index] = np.empty(size, dtype=np.uint8)
            self._views = {key: view for key, view in self._views.items() if key[0] != index}
        return self._bytes[index][:size]

    def rows(self, count: int, length: int, dtype: torch.dtype) -> list[Tensor]:
        """`count` blocks for the arithmetic, whole or shorter; always the same ones."""
        import torch

        rows = []
        for number in range(count):
            row = self._rows.get((dtype, number))
            if row is None or row.numel() < length:
                row = torch.empty(max(self.block, length), dtype=dtype, device=self.device)
                self._rows[dtype, number] = row
            rows.append(row if length == row.numel() else row[:length])
        return rows

"""One tensor of a plan: from the bytes of its inputs to the bytes of the result, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from checkpoints import Checkpoint
from checkpoints.dtypes import itemsize
from checkpoints.problems import CheckpointError, Problem
from merging.destinations import ShardWriter
from merging.engine.finite import count_not_finite
from merging.engine.scaled import as_bytes, bands, rounded, rows_of_band
from merging.engine.workspace import BLOCK, Workspace
from merging.fp8 import FP8
from merging.methods import METHODS
from merging.plan import Plan, PlannedTensor

if TYPE_CHECKING:
    from torch import Tensor

    from merging.engine.blocks import Read
    from merging.engine.prefetch import TensorReader

# Called between steps; raises where the work is to end.
Check = Callable[[], None]


class Buffers:
    """What one worker holds."""

    def __init__(self, device: str):
        self.workspace = Workspace(device)
        self._copies: dict[int, bytearray] = {}

    def copy(self, index: int, size: int) -> memoryview:
        """`size` bytes for input `index` of a tensor that is copied."""
        if len(self._copies.get(index, b"")) < size:
            self._copies[index] = bytearray(size)
        return memoryview(self._copies[index])[:size]


def merge_tensor(
    plan: Plan,
    tensor: PlannedTensor,
    models: Sequence[Checkpoint],
    writer: ShardWriter,
    offset: int,
    buffers: Buffers,
    check: Check,
    prefetched: TensorReader | None = None,
) -> int:
    """Merge a tensor into its place in a file.

    Args:
        models: the plan's, opened
        offset: of the tensor in the file, in bytes
        buffers: the worker's
        check: called once a block; raises to stop
        prefetched: has the inputs that come over a network; None where the tensor's are not prefetched

    Returns:
        How many of its numbers are infinite or NaN.

    Raises:
        CheckpointError: an input cannot be read, or inputs differ that must not
    """
    parts = [(models[part.model], part.tensor) for part in tensor.inputs]
    is_remote = [model.is_remote for model, _ in parts]

    def read(index: int, start: int, buffer: memoryview) -> None:
        if prefetched and is_remote[index]:
            prefetched.read(index, start, buffer)
        else:
            model, name = parts[index]
            model.read_into(name, start, buffer)

    if tensor.copied_from is not None:
        return _copy(tensor, read, writer, offset, buffers, check)
    waits = any(is_remote) and not prefetched
    if tensor.scales:
        plain = replace(tensor, dtype="F32", scales="")
        numbers = computed(plan, plain, parts, read, waits, buffers.workspace, check)
        return _with_scales(tensor, numbers, writer, offset)
    count = 0
    for start, stored in computed(plan, tensor, parts, read, waits, buffers.workspace, check):
        count += count_not_finite(stored, tensor.dtype)
        writer.write(offset + start, stored)
    return count


def _copy(
    tensor: PlannedTensor, read: Read, writer: ShardWriter, offset: int, buffers: Buffers, check: Check
) -> int:
    """Copy an input byte for byte; what is not a float must be the same in all inputs. How many of its numbers are
    infinite or NaN."""
    step = BLOCK * itemsize(tensor.dtype)
    count = 0
    for start in range(0, tensor.bytes, step):
        check()
        size = min(step, tensor.bytes - start)
        stored = [buffers.copy(index, size) for index in range(len(tensor.inputs))]
        for index, buffer in enumerate(stored):
            read(index, start, buffer)
        if not all(_same(stored[0], buffer) for buffer in stored[1:]):
            values = {"tensor": tensor.name, "dtype": tensor.dtype}
            raise CheckpointError(Problem("not-float", values, tensor.name))
        count += count_not_finite(stored[0], tensor.dtype)
        writer.write(offset + start, stored[0])
    return count


def _with_scales(
    tensor: PlannedTensor, numbers: Iterator[tuple[int, memoryview]], writer: ShardWriter, offset: int
) -> int:
    """Write a matrix as eight-bit floats, and its scales before it. How many of its numbers are infinite or NaN.

    Args:
        numbers: of the matrix as float32, in order, with their offsets
    """
    form, (_, width) = FP8[tensor.scales], tensor.shape
    count, scales_at, at = 0, offset, offset + tensor.scale_bytes
    for _, band in bands(numbers, rows_of_band(form, tensor.shape), width):
        scales, eight = (as_bytes(part) for part in rounded(band, form))
        count += count_not_finite(eight, tensor.dtype)
        writer.write(scales_at, scales)
        writer.write(at, eight)
        scales_at, at = scales_at + len(scales), at + len(eight)
    return count


def _same(one: memoryview, other: memoryview) -> bool:
    """Whether the bytes are equal. By numpy, as memoryviews compare number by number; and imported here, as most
    merges copy nothing that has to be compared."""
    import numpy as np

    return np.array_equal(one, other)


def computed(
    plan: Plan,
    tensor: PlannedTensor,
    parts: Sequence[tuple[Checkpoint, str]],
    read: Read,
    waits: bool,
    workspace: Workspace,
    check: Check,
) -> Iterator[tuple[int, memoryview]]:
    """The bytes of a tensor, with their offsets in it, in order; the next step reuses them.

    Args:
        parts: its inputs, each a model and the name of a tensor there
        read, waits, workspace, check: see `Inputs`
    """
    from merging.engine.blocks import Inputs, merge_blocks

    method = METHODS[plan.method]
    dtypes = [model.tensors[name].dtype for model, name in parts]
    inputs = Inputs(read, dtypes, tensor.shape, waits, workspace, check, plan.seed_of(tensor))
    merged: Iterator[tuple[int, Tensor]]
    if tensor.is_one_input:
        merged = ((start, block) for start, (block,) in inputs.blocks([0]))
    else:
        arguments = {p.argument: tensor.parameters[p.name] for p in method.parameters}
        merged = merge_blocks(method, arguments, inputs)
    width = itemsize(tensor.dtype)
    for start, block in merged:
        out = workspace.stored(workspace.OUTPUT, tensor.dtype, len(block))
        out.elements.copy_(block)
        yield start * width, out.raw


def whole_tensor(plan: Plan, tensor: PlannedTensor, models: Sequence[Checkpoint], check: Check) -> bytearray:
    """The bytes of a tensor, merged by this thread."""
    parts = [(models[part.model], part.tensor) for part in tensor.inputs]

    def read(index: int, start: int, buffer: memoryview) -> None:
        model, name = parts[index]
        model.read_into(name, start, buffer)

    result = bytearray(tensor.bytes)
    if tensor.copied_from is not None:
        read(tensor.copied_from, 0, memoryview(result))
        return result

    waits = any(model.is_remote for model, _ in parts)
    # Buffers of its own: the thread may be in the middle of a block of the merge that reads this tensor.
    for start, stored in computed(plan, tensor, parts, read, waits, Workspace("cpu"), check):
        result[start : start + len(stored)] = stored
    return result

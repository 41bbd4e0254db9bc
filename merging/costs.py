"""What a merge costs, foretold from its plan: memory from the buffers that the run will hold, and a rough time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from heapq import nlargest

from merging import stage
from merging.checkpoints.adapted import HELD
from merging.checkpoints.adapter import WHOLE
from merging.dtypes import itemsize
from merging.methods import METHODS
from merging.plan import Plan

# Elements that the arithmetic sees at once, and that are read at once from a folder: small blocks stay in the
# processor's cache. The results do not depend on it.
BLOCK = 64 * 1024
# Elements that are read at once from the Hub, where each request waits for the network; a multiple of BLOCK.
SLICE = 4 * 1024 * 1024
# Bytes that are read ahead from the Hub together: tensors up to this size in groups, larger ones in slices.
STEP = 32 * 1024 * 1024
# Inputs from the Hub that together are no larger than this are read once for all passes of a method. What lies
# in a folder is read in each pass anew: the system's cache has it.
RESIDENT = 128 * 1024 * 1024
# Bytes that are read ahead at most, and threads that do it: enough for a line of 100 MB/s that answers in a
# second or two.
READ_AHEAD = 256 * 1024 * 1024
READERS = 8
# The same for one pass over a tensor that is too large to be held, by each worker.
PASS_AHEAD = 64 * 1024 * 1024
# The interpreter with numpy and torch, and with huggingface_hub besides, measured.
PROCESS_BYTES = 155_000_000
HUB_CLIENT_BYTES = 45_000_000
# What torch sets up when it first multiplies matrices, measured.
PRODUCT_BYTES = 20_000_000


# Two last axes shorter than this are those of a kernel, not of packed matrices.
SMALLEST_MATRIX = 16


def matrix_shape(shape: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of the matrix that a tensor is, or of each of those that it packs (experts along the first of
    three axes); None where it is neither."""
    if len(shape) == 2 or (len(shape) == 3 and min(shape[1:]) >= SMALLEST_MATRIX):
        return shape[-2], shape[-1]
    return None


def _matrix_memory(shape: Sequence[int], count: int) -> int:
    """Bytes that the decomposition of so many task vectors of a tensor takes: the matrices and as many singular
    vectors as two of them, the sum, and the eigenvectors of a few square matrices in float64."""
    matrix = matrix_shape(shape)
    if matrix is None:
        return 0
    return 4 * math.prod(matrix) * (count + 5) + 8 * 8 * min(matrix) ** 2


def rereads(plan: Plan) -> bool:
    """Whether inputs from the Hub have to be held whole, or be read by the merge itself in each of its passes."""
    method = METHODS[plan.method]
    return any(method.rereads(tensor.parameters) for tensor in plan.tensors if not tensor.is_one_input)


def default_workers() -> int:
    """How many threads merge at a time: one a core, for others read and upload."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(plan: Plan, shard_buffers: int, workers: int | None = None) -> int:
    """Bytes that the process will hold at most: bounded by workers and shards, never by a model.

    Args:
        plan: with its tensors
        shard_buffers: how many shards the destination holds in memory
        workers: None: as many as the run takes by itself
    """
    method = METHODS[plan.method]
    remote = any(model.is_remote for model in plan.models)
    again = rereads(plan)
    each, steps = [], [0]
    for tensor in plan.tensors:
        inputs, width = len(tensor.inputs), itemsize(tensor.dtype)
        block = min(tensor.elements, BLOCK)
        if method.by_rows and tensor.shape:
            block = max(block, tensor.shape[-1])
        stored = inputs * block * width
        if remote and again and inputs * tensor.bytes > RESIDENT:
            stored += max(PASS_AHEAD, inputs * SLICE * width)
        elif remote:
            steps.append(inputs * min(tensor.bytes, SLICE * width))
        # The inputs as float32, as much again in a method's temporaries (or as float64), and the output.
        blocks = block * (inputs * 4 + max(inputs, 2) * 8 + width)
        # What lies near the cut of a sparsifier, a percent or two.
        ranked = min(tensor.elements * 4, 16_000_000 + tensor.elements // 10) if method.sparsify else 0
        matrices = 0
        computed = tensor.copied_from is None
        if computed and method.by_matrices and method.wants_matrices(tensor.parameters):
            matrices = _matrix_memory(tensor.shape, inputs - 1)
        each.append(stored + blocks + ranked + matrices)
    # Every worker keeps the buffers of the largest tensor that came its way: at worst these are the largest of all.
    busiest = sum(nlargest(workers or default_workers(), each))
    # A step that is larger than the budget is held alone.
    ahead = max(min(READ_AHEAD, plan.bytes_in), *steps) if remote else 0
    buffered = sum(nlargest(shard_buffers, (shard.bytes for shard in plan.shards)))
    client = HUB_CLIENT_BYTES if remote or shard_buffers else 0
    stages = sum(_stage(model.made_by) for model in plan.models if model.made_by)
    return (
        stages
        + PROCESS_BYTES
        + client
        + busiest
        + ahead
        + buffered
        + _adapters(plan, workers or default_workers())
    )


def _stage(plan: Plan) -> int:
    """What a merge that is made on the way holds: its blocks, and its tensors that may be read again."""
    largest = max(tensor.bytes for tensor in plan.tensors)
    return plan.peak_memory_bytes - PROCESS_BYTES + min(plan.bytes_out, max(stage.HELD, 2 * largest))


def _adapters(plan: Plan, workers: int) -> int:
    """What applying adapters holds: their factors, and the stored rows of the base that are being computed."""
    held = PRODUCT_BYTES if any(model.adapters for model in plan.models) else 0
    for model in plan.models:
        if model.adapters:
            who = READERS if model.is_remote else workers
            held += who * (SLICE if model.is_remote else BLOCK) * 4 * len(model.adapters)
            # Workers are processes where all is local, and each holds its own.
            copies = 1 if model.is_remote else workers
            held += copies * sum(min(adapter.bytes, HELD) for adapter in model.adapters)
            held += sum(min(adapter.bytes, WHOLE) for adapter in model.adapters if not adapter.is_folder)
    return held


def rough_seconds(plan: Plan) -> float:
    """A guess of the time on two cores, for people to decide whether to wait: not better than a factor of two."""
    remote = sum(model.bytes for model in plan.models if not model.is_folder)
    share = remote / max(sum(model.bytes for model in plan.models), 1)
    reading = plan.bytes_in * (share / 50e6 + (1 - share) / 2e9)
    writing = plan.bytes_out / (1e9 if plan.disk_bytes else 50e6)
    method = METHODS[plan.method]
    each = 1e-7 if method.by_matrices else 8e-9 if method.sparsify or method.measure else 1e-9
    arithmetic = plan.bytes_in / 2 * each
    return 2.0 + max(reading + arithmetic, writing)

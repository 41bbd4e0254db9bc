"""What a merge costs, foretold from its plan: memory from the buffers that the run will hold, and a rough time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from heapq import nlargest

import merging.intermediate
from checkpoints.adapters.adapted import HELD
from checkpoints.adapters.adapter import WHOLE
from checkpoints.dtypes import itemsize
from merging.destinations import xet
from merging.methods import METHODS, MergeMethod
from merging.plan import Plan, PlannedTensor

# Elements that the arithmetic sees at once, and that are read at once from a folder: small blocks stay in the
# processor's cache. The results do not depend on it.
BLOCK = 128 * 1024
# Elements that are read at once from the Hub, where each request waits for the network; a multiple of BLOCK.
SLICE = 4 * 1024 * 1024
# Bytes that are read ahead from the Hub together: tensors up to this size in groups, larger ones in slices.
STEP = 32 * 1024 * 1024
# Inputs from the Hub that together are no larger than this are read once for all passes of a method. What lies
# in a folder is read in each pass anew: the system's cache has it.
RESIDENT = 128 * 1024 * 1024
# Bytes that are read ahead at most, but for tensors that are held whole, and threads that do it: so many that all
# of it is asked for at once. Then it is in memory soon, however slow the line, and the plan's figure is what is seen.
READ_AHEAD = 128 * 1024 * 1024
READERS = 12
# The same for one pass over a tensor that is too large to be held, by each worker.
PASS_AHEAD = 64 * 1024 * 1024
# The interpreter with numpy and torch, and with huggingface_hub besides, measured with `python -m bench.memory`.
PROCESS_BYTES = 150_000_000
HUB_CLIENT_BYTES = 12_000_000
# What numpy loads for random numbers, in each process.
RANDOM_BYTES = 10_000_000
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


def _ranked(method: MergeMethod, tensor: PlannedTensor) -> int:
    """Bytes of what `selection` keeps to find cuts: of each vector what lies near a cut, and two copies for one at a
    time. Near a cut in the middle lie 0.83 % of a vector; near one that drops few of the largest, hardly any."""
    if method.sparsify:
        vectors, cuts = len(tensor.inputs) - 1, 0 if method.sparsify.is_random else 1
    else:
        vectors, cuts = len(tensor.inputs), 2 if method.measure else 0
    near = math.ceil(tensor.elements * 4 * 0.0085) + 1_000_000
    return min(vectors * tensor.elements * 4, cuts * near * (vectors + 2))


def rereads(plan: Plan) -> bool:
    """Whether inputs from the Hub have to be held whole, or be read by the merge itself in each of its passes."""
    method = METHODS[plan.method]
    return any(method.rereads(tensor.parameters) for tensor in plan.tensors if not tensor.is_one_input)


def default_workers() -> int:
    """How many threads merge at a time: one a core, for others read and upload."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(plan: Plan) -> int:
    """Bytes that may be read ahead from the Hub: room for two of the largest tensors that are held whole, so that one
    is merged while the next comes. A step that is larger is held alone."""
    if not any(model.is_remote for model in plan.models):
        return 0
    again, steps = rereads(plan), [0]
    largest = 0
    for tensor in plan.tensors:
        stored = _stored(plan, tensor)
        if not again or tensor.copied_from is not None:
            steps.append(math.ceil(stored * min(tensor.elements, SLICE) / max(tensor.elements, 1)))
        elif stored <= RESIDENT:
            largest = max(largest, stored)
    return max(min(max(READ_AHEAD, 2 * largest), plan.bytes_in), *steps)


def _stored(plan: Plan, tensor: PlannedTensor) -> int:
    """Bytes of a tensor's inputs as they are stored, if their models keep one dtype."""
    models = [plan.models[part.model] for part in tensor.inputs]
    widths = (
        model.bytes / model.parameters if model.parameters else itemsize(tensor.dtype) for model in models
    )
    return math.ceil(tensor.elements * sum(widths))


def peak_memory(plan: Plan, shard_buffers: int, workers: int | None = None) -> int:
    """Bytes that the process will hold at most: bounded by workers and shards, never by a model.

    Args:
        plan: with its tensors
        shard_buffers: how many shards the destination holds in memory, where the plan does not stream them
        workers: None: as many as the run takes by itself
    """
    method = METHODS[plan.method]
    remote = any(model.is_remote for model in plan.models)
    again = rereads(plan)
    each = []
    for tensor in plan.tensors:
        inputs, width = len(tensor.inputs), itemsize(tensor.dtype)
        block = min(tensor.elements, BLOCK)
        if method.by_rows and tensor.shape:
            block = max(block, tensor.shape[-1])
        whole = _stored(plan, tensor)
        share = block / max(tensor.elements, 1)
        stored = math.ceil(whole * share)
        computed = tensor.copied_from is None
        if remote and again and computed and whole > RESIDENT:
            slices = math.ceil(whole * min(SLICE / max(tensor.elements, 1), 1))
            stored += max(PASS_AHEAD, slices)
        # The inputs as float32, as much again in a method's temporaries, or as float64, and the output.
        blocks = block * (inputs * 4 + max(inputs, 2) * (8 if method.from_products else 4) + width)
        ranked = _ranked(method, tensor) if computed else 0
        matrices = 0
        if computed and method.by_matrices and method.wants_matrices(tensor.parameters):
            matrices = _matrix_memory(tensor.shape, inputs - 1)
        each.append(stored + blocks + ranked + matrices)
    # Every worker keeps the buffers of the largest tensor that came its way: at worst these are the largest of all.
    busiest = sum(nlargest(workers or default_workers(), each))
    sizes = [shard.bytes for shard in plan.shards]
    buffered = min(xet.HELD, sum(sizes)) if plan.streams else sum(nlargest(shard_buffers, sizes))
    client = HUB_CLIENT_BYTES if remote or shard_buffers else 0
    stages = sum(_stage(model.made_by) for model in plan.models if model.made_by)
    # Workers are processes where all is local.
    processes = 1 if client else workers or default_workers()
    return (
        stages
        + (RANDOM_BYTES * processes if method.is_random else 0)
        + PROCESS_BYTES
        + client
        + busiest
        + read_ahead(plan)
        + buffered
        + _adapters(plan, workers or default_workers())
    )


def _stage(plan: Plan) -> int:
    """What a merge that is made on the way holds: its blocks, and its tensors that may be read again."""
    largest = max(tensor.bytes for tensor in plan.tensors)
    return (
        plan.peak_memory_bytes
        - PROCESS_BYTES
        + min(plan.bytes_out, max(merging.intermediate.HELD, 2 * largest))
    )


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
            held += sum(min(adapter.bytes, WHOLE) for adapter in model.adapters if adapter.is_remote)
    return held


def rough_seconds(plan: Plan) -> float:
    """A guess of the time on two cores, for people to decide whether to wait: not better than a factor of two."""
    remote = sum(model.bytes for model in plan.models if not (model.is_folder or model.is_cached))
    share = remote / max(sum(model.bytes for model in plan.models), 1)
    reading = plan.bytes_in * (share / 50e6 + (1 - share) / 2e9)
    writing = plan.bytes_out / (1e9 if plan.disk_bytes else 50e6)
    method = METHODS[plan.method]
    each = 1e-7 if method.by_matrices else 8e-9 if method.sparsify or method.measure else 1e-9
    arithmetic = plan.bytes_in / 2 * each
    return 2.0 + max(reading + arithmetic, writing)

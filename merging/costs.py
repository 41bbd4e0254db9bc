"""What a merge costs, foretold from its plan: memory from the buffers that the run will hold, and a rough time."""

from __future__ import annotations

import os

from merging.dtypes import itemsize
from merging.methods import METHODS
from merging.plan import Plan

# Elements of a tensor that are read at once, and that the arithmetic sees at once. Small blocks stay in the
# processor's cache; the sums of Gram matrices and the choice among equals do not depend on either size.
SLICE = 4 * 1024 * 1024
BLOCK = 256 * 1024
# Reading from the Hub waits for the network, so that more workers than cores pay.
REMOTE_WORKERS = 8
# The interpreter with torch, numpy and huggingface_hub, measured.
PROCESS_BYTES = 330_000_000


def default_workers(plan: Plan) -> int:
    """How many threads merge at a time: one a core, more when they wait for a network."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    remote = any(not model.is_folder for model in plan.models)
    return max(cores, REMOTE_WORKERS) if remote else cores


def peak_memory(plan: Plan, shard_buffers: int, workers: int | None = None) -> int:
    """Bytes that the process will hold at most.

    Every worker has a slice of each input and of the output, and a float32 block of each; a sparsifier
    that ranks a whole tensor holds its magnitudes, twice while it selects; the Hub takes shards from memory.
    """
    workers = workers or default_workers(plan)
    method = METHODS[plan.method]
    busiest = 0
    for tensor in plan.tensors:
        slices = min(tensor.elements, SLICE) * (len(tensor.inputs) * 4 + itemsize(tensor.dtype))
        blocks = min(tensor.elements, BLOCK) * 4 * (2 * len(tensor.inputs) + 2)
        ranked = tensor.elements * 4 * 2 if method.sparsify and tensor.copied_from is None else 0
        busiest = max(busiest, slices + blocks + ranked)
    buffered = shard_buffers * max((shard.bytes for shard in plan.shards), default=0)
    return PROCESS_BYTES + workers * busiest + buffered


def rough_seconds(plan: Plan) -> float:
    """A guess of the time on two cores, for people to decide whether to wait: not better than a factor of two."""
    remote = sum(model.bytes for model in plan.models if not model.is_folder)
    share = remote / max(sum(model.bytes for model in plan.models), 1)
    reading = plan.bytes_in * (share / 50e6 + (1 - share) / 2e9)
    writing = plan.bytes_out / (1e9 if plan.disk_bytes else 50e6)
    arithmetic = plan.bytes_in / 2 * (8e-9 if METHODS[plan.method].sparsify else 1e-9)
    return 2.0 + max(reading + arithmetic, writing)

"""What a merge costs, estimated from its plan: memory from what each room says that it will hold, and a rough time."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoints.adapters import adapted
from checkpoints.quantized import dequantized
from merging.engine import prefetch, workspace
from merging.engine.workspace import default_workers
from merging.experts import gates
from merging.methods import METHODS
from merging.plan import Plan, PlannedModel

# The interpreter with numpy and torch, and with huggingface_hub besides, measured with `python -m bench.memory`.
PROCESS_BYTES = 175_000_000
HUB_CLIENT_BYTES = 12_000_000
# What numpy loads for random numbers, in each process.
RANDOM_BYTES = 10_000_000
# What torch sets up when it first multiplies matrices.
PRODUCT_BYTES = 20_000_000

# A token of a vocabulary, in the plan and in what planning leaves behind, measured with those of Qwen 3.
TOKEN_BYTES = 1200
# Multiplications a second of a core that approximates rows, measured with `python -m bench.transplant`.
OPERATIONS = 1.2e10


def peak_memory(plan: Plan, destination: int = 0, workers: int | None = None) -> int:
    """Bytes that the process will hold at most: bounded by workers and shards, never by a model.

    Args:
        plan: with its tensors
        destination: bytes that the destination holds, see `Destination.held`
        workers: None: as many as the run takes by itself
    """
    remote = any(model.is_remote for model in plan.models)
    client = HUB_CLIENT_BYTES if remote or destination else 0
    return PROCESS_BYTES + client + destination + working_memory(plan, workers, bool(client))


def working_memory(plan: Plan, workers: int | None = None, by_threads: bool = False) -> int:
    """Bytes that the merging itself takes.

    Args:
        by_threads: whether the workers are threads; else each has libraries of its own
    """
    workers = workers or default_workers()
    draws = RANDOM_BYTES if METHODS[plan.method].is_random or plan.mixture else 0
    multiplies = PRODUCT_BYTES if any(model.adapters for model in plan.models) else 0
    return (
        workspace.held(plan, workers)
        + prefetch.held(plan)
        + draws * (1 if by_threads else workers)
        + multiplies
        + sum(_adapters(model, workers) for model in plan.models)
        + sum(_quantized(model, workers) for model in plan.models if model.quantized_bytes)
        + sum(_approximated(model, workers) for model in plan.models)
        + _vocabularies(plan)
        + sum(model.made_by.peak_memory_bytes for model in plan.models if model.made_by)
        + (gates.held(plan) if plan.gates else 0)
    )


def _adapters(model: PlannedModel, workers: int) -> int:
    """What applying a model's adapters holds."""
    return adapted.held(
        [adapter.bytes for adapter in model.adapters],
        [adapter.bytes for adapter in model.adapters if adapter.is_remote],
        elements=prefetch.SLICE if model.is_remote else workspace.BLOCK,
        readers=prefetch.READERS if model.is_remote else workers,
        # Workers are processes where all is local, and each has its own factors.
        copies=1 if model.is_remote else workers,
    )


def _quantized(model: PlannedModel, workers: int) -> int:
    """What reading a quantized model as plain numbers holds."""
    return dequantized.held(
        model.quantized_bytes,
        elements=prefetch.SLICE if model.is_remote else workspace.BLOCK,
        readers=prefetch.READERS if model.is_remote else workers,
        copies=1 if model.is_remote else workers,
    )


def bytes_for_gates(models: Sequence[PlannedModel]) -> int:
    """Bytes that are read to compute the routers: the whole base, once."""
    return sum(
        models[found.base].bytes for model in models if model.generated and (found := model.generated.gates)
    )


def _vocabularies(plan: Plan) -> int:
    """What the vocabularies hold whose tokens were compared, to approximate rows."""
    if not plan.tokenizer or not any(model.approximating for model in plan.models):
        return 0
    return TOKEN_BYTES * sum(model.tokens for model in plan.tokenizer.models)


def _approximated(model: PlannedModel, workers: int) -> int:
    """What approximating rows of a model holds."""
    cost = model.approximating
    return cost.held + workers * cost.each_thread if cost else 0


def rough_seconds(plan: Plan, cores: int = 2) -> float:
    """A guess of the time on some cores, for people to decide whether to wait: not better than a factor of two."""
    remote = sum(model.bytes for model in plan.models if not (model.is_folder or model.is_cached))
    share = remote / max(sum(model.bytes for model in plan.models), 1)
    reading = plan.bytes_in * (share / 50e6 + (1 - share) / 2e9)
    writing = plan.bytes_out / (1e9 if plan.disk_bytes else 50e6)
    method = METHODS[plan.method]
    each = 1e-7 if method.by_matrices else 8e-9 if method.sparsify or method.measure else 1e-9
    arithmetic = plan.bytes_in / 2 * each + (gates.rough_seconds(plan) if plan.gates else 0)
    return 2.0 + max(reading + 2 * arithmetic / cores, writing) + approximating_seconds(plan)


def approximating_seconds(plan: Plan) -> float:
    """A guess of the time that approximating rows takes of it, on this machine's processor."""
    operations = sum(
        (model.approximating.operations if model.approximating else 0)
        + (approximating_seconds(model.made_by) * OPERATIONS * default_workers() if model.made_by else 0)
        for model in plan.models
    )
    return operations / (OPERATIONS * default_workers())

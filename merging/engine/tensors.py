"""A plan's models, opened as it found them, and its tensors, computed from them block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from checkpoints import AlignedCheckpoint, Checkpoint, Token, open_adapter, open_checkpoint
from checkpoints.dtypes import itemsize
from checkpoints.problems import CheckpointError, Problem
from merging.intermediate import Stage
from merging.methods import METHODS
from merging.plan import Plan, PlannedTensor

if TYPE_CHECKING:
    from torch import Tensor

    from merging.engine.blocks import Read, Workspace

# Called between steps; raises where the work is to end.
Check = Callable[[], None]


def open_models(plan: Plan, token: Token, check: Check) -> list[Checkpoint]:
    """Open a plan's models, as they are to be read.

    Raises:
        CheckpointError: one can no longer be read, or changed since the plan was made.
    """
    models: list[Checkpoint] = []
    try:
        for model in plan.models:
            check()
            if model.made_by:
                models.append(open_merge(model.made_by, model.name, token, check))
                continue
            opened: Checkpoint = open_checkpoint(
                model.name, model.commit or model.revision, token=token, allow_folders=model.is_folder
            )
            models.append(opened)
            for adapter in model.adapters:
                where, scale = (adapter.name, adapter.commit or adapter.revision), adapter.scale
                opened = open_adapter(opened, *where, scale, token=token, allow_folders=adapter.is_folder)
                models[-1] = opened
            planned = [(model.name, model.version), *((a.name, a.version) for a in model.adapters)]
            found = [opened.version, *(adapter.version for adapter in opened.adapters)]
            for (name, version), now in zip(planned, found, strict=True):
                if now != version:
                    message = f"{name} has changed since the plan was made."
                    raise CheckpointError(Problem("model-changed", message, "Make the plan again.", name))
    except BaseException:
        for opened in models:
            opened.close()
        raise
    whole = tuple(models)
    return [
        AlignedCheckpoint(opened, model.alignment, whole) if model.alignment else opened
        for model, opened in zip(plan.models, whole, strict=True)
    ]


def open_merge(plan: Plan, name: str, token: Token, check: Check = lambda: None) -> Stage:
    """The result of a plan as a checkpoint, whose tensors are merged when they are read."""

    def compute(plan: Plan, tensor: PlannedTensor, models: Sequence[Checkpoint]) -> bytearray:
        return _whole(plan, tensor, models, check)

    return Stage(name, plan, open_models(plan, token, check), compute)


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


def _whole(plan: Plan, tensor: PlannedTensor, models: Sequence[Checkpoint], check: Check) -> bytearray:
    parts = [(models[part.model], part.tensor) for part in tensor.inputs]

    def read(index: int, start: int, buffer: memoryview) -> None:
        model, name = parts[index]
        model.read_into(name, start, buffer)

    result = bytearray(tensor.bytes)
    if tensor.copied_from is not None:
        read(tensor.copied_from, 0, memoryview(result))
        return result
    from merging.engine.blocks import Workspace

    waits = any(model.is_remote for model, _ in parts)
    # Buffers of its own: the thread may be in the middle of a block of the merge that reads this tensor.
    for start, stored in computed(plan, tensor, parts, read, waits, Workspace("cpu"), check):
        result[start : start + len(stored)] = stored
    return result

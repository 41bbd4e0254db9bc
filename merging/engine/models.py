"""The models of a plan, opened as it found them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from checkpoints import AlignedCheckpoint, Checkpoint, Token, open_adapter, open_checkpoint
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import read_small
from merging.engine.tensors import whole_tensor
from merging.intermediate import Stage
from merging.plan import Plan, PlannedModel, PlannedTensor

# Called between steps; raises where the work is to end.
Check = Callable[[], None]


class Models:
    """The models of a plan, which are opened when their weights are first asked for."""

    def __init__(self, plan: Plan, token: Token, check: Check):
        self._plan = plan
        self._token = token
        self._check = check
        self._opened: list[Checkpoint] | None = None

    def opened(self) -> list[Checkpoint]:
        """All of them, as they are to be read.

        Raises:
            CheckpointError: one can no longer be read, or changed since the plan was made.
        """
        if self._opened is None:
            self._opened = open_models(self._plan, self._token, self._check)
        return self._opened

    def read_file(self, index: int, file: str) -> bytes:
        """A small file of a model. A model that is not open stays so, if it is a plain one.

        Raises:
            CheckpointError: it can no longer be read, or the model changed since the plan was made.
        """
        model = self._plan.models[index]
        if self._opened is not None or model.made_by or model.adapters:
            return self.opened()[index].read_file(file)
        where = model.commit or model.revision
        with closing(open_repository(model.name, where, self._token, model.is_folder)) as repository:
            _same_version(model.name, model.version, repository.version)
            return read_small(repository, file)

    def read_by(self) -> tuple[str, ...]:
        """How their weights were read so far."""
        return tuple(sorted({way for model in self._opened or () for way in model.read_by}))

    def close(self) -> None:
        for model in self._opened or ():
            model.close()


def open_models(plan: Plan, token: Token, check: Check) -> list[Checkpoint]:
    """Open a plan's models, as they are to be read.

    Raises:
        CheckpointError: one can no longer be read, or changed since the plan was made.
    """
    models: list[Checkpoint] = []
    try:
        for model in plan.models:
            check()
            models.append(_opened(model, token, check))
    except BaseException:
        for opened in models:
            opened.close()
        raise
    whole = tuple(models)
    return [
        AlignedCheckpoint(opened, model.alignment, whole) if model.alignment else opened
        for model, opened in zip(plan.models, whole, strict=True)
    ]


def _opened(model: PlannedModel, token: Token, check: Check) -> Checkpoint:
    if model.made_by:
        return open_merge(model.made_by, model.name, token, check)
    opened: Checkpoint = open_checkpoint(
        model.name, model.commit or model.revision, token=token, allow_folders=model.is_folder
    )
    try:
        for adapter in model.adapters:
            where, scale = (adapter.name, adapter.commit or adapter.revision), adapter.scale
            opened = open_adapter(opened, *where, scale, token=token, allow_folders=adapter.is_folder)
        planned = [(model.name, model.version), *((a.name, a.version) for a in model.adapters)]
        found = [opened.version, *(adapter.version for adapter in opened.adapters)]
        for (name, version), now in zip(planned, found, strict=True):
            _same_version(name, version, now)
    except BaseException:
        opened.close()
        raise
    return opened


def _same_version(name: str, planned: str, found: str) -> None:
    if found != planned:
        raise CheckpointError(Problem("model-changed", {"model": name}, name))


def open_merge(plan: Plan, name: str, token: Token, check: Check = lambda: None) -> Stage:
    """The result of a plan as a checkpoint, whose tensors are merged when they are read."""

    def compute(plan: Plan, tensor: PlannedTensor, models: Sequence[Checkpoint]) -> bytearray:
        return whole_tensor(plan, tensor, models, check)

    return Stage(name, plan, open_models(plan, token, check), compute)

"""The models of a plan, opened as it found them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing

from checkpoints import AlignedCheckpoint, Checkpoint, Token, open_adapter, open_checkpoint
from checkpoints.located import LocatedCheckpoint, locate, open_located
from checkpoints.problems import CheckpointError, Problem
from checkpoints.renamed import RenamedCheckpoint
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import read_small
from checkpoints.view import View
from merging.engine.tensors import whole_tensor
from merging.experts.generated import GeneratedCheckpoint, LocatedRows
from merging.intermediate import IntermediateMerge
from merging.plan import Plan, PlannedModel, PlannedTensor

# Called between steps; raises where the work is to end.
Check = Callable[[], None]


# Where a model is and what was read of it; of a merge that is made on the way, where its models are; of generated
# tensors, those that were computed.
Located = LocatedCheckpoint | LocatedRows | tuple["Located", ...]


class Models:
    """The models of a plan, which are opened when their weights are first asked for.

    Args:
        check: raises when the work is to stop
        located: where they are, if that is known; nothing is then asked for again
    """

    def __init__(self, plan: Plan, token: Token, check: Check, located: Sequence[Located] | None = None):
        self._plan = plan
        self._token = token
        self._check = check
        self._located = located
        self._opened: list[Checkpoint] | None = None

    def opened(self) -> list[Checkpoint]:
        """All of them, as they are to be read.

        Raises:
            CheckpointError: one can no longer be read, or changed since the plan was made.
        """
        if self._opened is None:
            self._opened = open_models(self._plan, self._token, self._check, self._located)
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
        with closing(open_repository(model.name, where, self._token, model.commit is None)) as repository:
            _same_version(model.name, model.version, repository.version)
            if file in repository.files:
                return read_small(repository, file)
        return self.opened()[index].read_file(file)  # one that its GGUF files describe

    def read_by(self) -> tuple[str, ...]:
        """How their weights were read so far."""
        return tuple(sorted({way for model in self._opened or () for way in model.read_by}))

    def close(self) -> None:
        for model in self._opened or ():
            model.close()


def open_models(
    plan: Plan, token: Token, check: Check, located: Sequence[Located] | None = None
) -> list[Checkpoint]:
    """Open a plan's models, as they are to be read.

    Args:
        located: where they are, if that is known

    Raises:
        CheckpointError: one can no longer be read, or changed since the plan was made.
    """
    models: list[Checkpoint] = []
    try:
        for index, model in enumerate(plan.models):
            check()
            known = located[index] if located else None
            if model.generated:
                rows = known.arrays() if isinstance(known, LocatedRows) else None
                models.append(GeneratedCheckpoint(model.generated, plan.seed, rows))
            else:
                models.append(_opened(model, token, check, known))
    except BaseException:
        for opened in models:
            opened.close()
        raise
    whole = tuple(
        RenamedCheckpoint(opened, model.renamed) if model.renamed else opened
        for model, opened in zip(plan.models, models, strict=True)
    )
    try:
        _fill(plan, whole, check)
    except BaseException:
        for opened in models:
            opened.close()
        raise
    return [
        AlignedCheckpoint(opened, model.alignment, whole) if model.alignment else opened
        for model, opened in zip(plan.models, whole, strict=True)
    ]


def _fill(plan: Plan, models: Sequence[Checkpoint], check: Check) -> None:
    """Compute the routers of a plan, unless they came with it."""
    for opened in models:
        if isinstance(opened, GeneratedCheckpoint) and plan.gates and opened.rows is None:
            # Imported here: it takes torch and transformers.
            from merging.experts.gates import compute, in_tensors

            rows = compute(plan.gates, models[plan.gates.base], check)
            opened.fill(in_tensors(rows, opened.generated))


def _opened(model: PlannedModel, token: Token, check: Check, located: Located | None) -> Checkpoint:
    if model.made_by:
        parts = located if isinstance(located, tuple) else None
        return open_merge(model.made_by, model.name, token, check, parts)
    if isinstance(located, LocatedCheckpoint):
        return open_located(located, token)
    where = model.commit or model.revision
    opened: Checkpoint = open_checkpoint(
        model.name, where, token=token, allow_folders=model.commit is None, is_tokenizer=not model.parameters
    )
    try:
        for adapter in model.adapters:
            named, scale = (adapter.name, adapter.commit or adapter.revision), adapter.scale
            opened = open_adapter(opened, *named, scale, token=token, allow_folders=adapter.commit is None)
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


def locate_models(
    plan: Plan, models: Sequence[Checkpoint], tensors: Iterable[PlannedTensor]
) -> tuple[Located, ...]:
    """Describe a plan's models, as far as some of its tensors need them.

    Args:
        models: the plan's, opened
    """
    names: list[set[str]] = [set() for _ in plan.models]
    for tensor in tensors:
        for part in tensor.inputs:
            names[part.model].add(part.tensor)
    for model in plan.models:
        # Rows come from tensors of all models.
        for of_each in model.alignment.tensors.values() if model.alignment else ():
            for index, name in enumerate(of_each):
                names[index] |= {name} - {""}
    return tuple(_located(opened, needed) for opened, needed in zip(models, names, strict=True))


def _located(opened: Checkpoint, names: Collection[str]) -> Located:
    if isinstance(opened, View):
        return _located(opened.own, {*opened.own_names(names)})
    if isinstance(opened, GeneratedCheckpoint):
        return LocatedRows.of(opened, names)
    if isinstance(opened, IntermediateMerge):
        needed = (tensor for tensor in opened.plan.tensors if tensor.name in names)
        return locate_models(opened.plan, opened.models, needed)
    return locate(opened, sorted(names & opened.tensors.keys()))


def open_merge(
    plan: Plan,
    name: str,
    token: Token,
    check: Check = lambda: None,
    located: Sequence[Located] | None = None,
) -> IntermediateMerge:
    """The result of a plan as a checkpoint, whose tensors are merged when they are read."""

    def compute(plan: Plan, tensor: PlannedTensor, models: Sequence[Checkpoint]) -> bytearray:
        return whole_tensor(plan, tensor, models, check)

    return IntermediateMerge(name, plan, open_models(plan, token, check, located), compute)

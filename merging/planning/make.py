"""Making a plan from a recipe and the models' headers: no weights are read, and every problem is found.

recipe -> runs of layers -> output tensors with their inputs and parameters -> shards, files, costs
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from checkpoints import (
    Checkpoint,
    Token,
    open_adapter,
    open_checkpoint,
)
from checkpoints.dtypes import rank_in_file
from checkpoints.memory import free_memory
from checkpoints.names import is_address
from checkpoints.problems import CheckpointError, DestinationError, PlanError, Problem
from merging.destinations import Destination, open_destination
from merging.experts.generated import GeneratedCheckpoint
from merging.fp8 import FP8
from merging.intermediate import IntermediateMerge
from merging.intermediate import held as held_by_merge
from merging.plan import (
    Plan,
    PlannedModel,
    PlannedShard,
    PlannedTensor,
    SourceFile,
    shard_header,
)
from merging.planning import configs
from merging.planning.costs import (
    approximating_seconds,
    bytes_for_gates,
    peak_memory,
    rough_seconds,
    working_memory,
)
from merging.planning.given_back import gives_back
from merging.planning.mixtures import MixtureTensors
from merging.planning.originals import with_originals
from merging.planning.result_files import ResultFiles
from merging.planning.result_tensors import ResultTensors
from merging.planning.scaled_tensors import scale_tensors
from merging.planning.similar_names import with_similar_names
from merging.recipe.recipe import ModelReference, Recipe

SHARD_SIZE = 2_000_000_000
# Files of a large result, about: the Hub advises up to a hundred large files in a commit.
FILES = 100
# Seconds of approximating rows that the plan warns of.
LONG_APPROXIMATION = 600


def make_plan(
    recipe: Recipe,
    to: str | None = None,
    *,
    token: Token = None,
    overwrite: bool = False,
    pull_request: bool = False,
    shard_size: int | None = None,
    allow_folders: bool = True,
    memory: int | None = None,
    keep_code: bool = False,
) -> Plan:
    """Find out what a merge will do and cost, and everything that prevents it.

    Reads the models' configs, headers and lists of files; no weights. Never raises for a recipe that cannot
    be merged: the plan then has problems, and `plan.ok` is false.

    >>> plan = make_plan(recipe, "hf://owner/merged")  # doctest: +SKIP
    >>> plan.ok, plan.bytes_out, [str(problem) for problem in plan.problems]  # doctest: +SKIP

    Args:
        recipe: what is to be merged
        to: where the result is to go, a folder or `hf://owner/name`; None leaves that unchecked
        token: whose access to the Hub to use; None: the machine's own login, False: anonymous
        overwrite: whether a model at the destination may be replaced
        pull_request: whether a pull request is opened where there is a model at the destination
        shard_size: largest output file, in bytes; a larger tensor has a file for itself. None: 2 GB, or a hundredth of
            the result where that is more
        allow_folders: whether models may be folders of this machine
        memory: bytes that are free for the merge; None: as many as this machine or container has free
        keep_code: copy code in other repositories that a config names, as it is now; else the result does not name it

    Returns:
        The plan, with models pinned to the commit that was read.
    """
    destination = None
    problems: list[Problem] = []
    if to is not None:
        try:
            destination = open_destination(
                to,
                token=token,
                overwrite=overwrite,
                pull_request=pull_request,
                allow_folders=allow_folders,
            )
        except DestinationError as error:
            problems += error.problems
    checkpoints, missing = _open_all(recipe, token, allow_folders)
    problems += missing
    try:
        plan = _draw(
            recipe, checkpoints, shard_size,
            complete=not missing, keep_code=keep_code, token=token, scaled=True,
        )  # fmt: skip
        problems += plan.problems
        plan = replace(plan, warnings=(*recipe.warnings, *plan.warnings))
        if not problems or plan.shards:
            plan = replace(plan, warnings=(*plan.warnings, *gives_back(recipe, plan)))
            size = plan.bytes_out + plan.bytes_beside
            plan = replace(plan, disk_bytes=destination.disk_bytes(size) if destination else size)
            plan = _with_memory(plan, destination, memory)
            plan = replace(plan, seconds=rough_seconds(plan))
            plan = replace(plan, warnings=(*plan.warnings, *_of_long_approximation(plan)))
            if destination:
                problems += destination.check(plan)
                plan = replace(plan, warnings=(*plan.warnings, *destination.warnings(plan)))
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
    return replace(
        plan,
        problems=with_similar_names(with_originals(dict.fromkeys(problems), token, allow_folders), token),
        warnings=with_originals(plan.warnings, token, allow_folders),
    )


class Planner:
    """Plans recipes one after the other. The headers of models that the first one names are read once.

    Args:
        token, allow_folders: see `make_plan`
    """

    def __init__(self, *, token: Token = None, allow_folders: bool = True):
        self._token = token
        self._allow_folders = allow_folders
        self._opened: dict[ModelReference, Checkpoint] = {}
        # What the tensors of the last recipe without files are, and of which models.
        self._laid_out: ResultTensors | None = None
        self._models: tuple[PlannedModel, ...] = ()

    def plan(self, recipe: Recipe, *, files: bool = True) -> Plan:
        """The plan of a recipe, without destination and costs.

        Args:
            files: whether it has files; else all tensors are in one shard without a name

        Raises:
            PlanError: it cannot be merged.
        """
        references = recipe.references()
        if recipe.intermediates or not set(references) <= self._opened.keys():
            self.close()
            self._opened, problems = _open_all(recipe, self._token, self._allow_folders)
            if problems:
                raise PlanError(problems)
        opened = {reference: self._opened[reference] for reference in references}
        plan = _draw(recipe, opened, SHARD_SIZE) if files else self._tensors_of(recipe, opened)
        if plan.problems:
            raise PlanError(plan.problems)
        return plan

    def _tensors_of(self, recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]) -> Plan:
        """The plan of a recipe whose models are open, without files; all tensors are in one shard without a name."""
        if self._laid_out and self._laid_out.differs_by_parameters(recipe):
            result = self._laid_out.again(recipe)
        else:
            result = _tensors(recipe, checkpoints)
            result.lay_out()
            self._laid_out = None if result.problems or recipe.intermediates else result
            self._models = result.planned()
        shard = PlannedShard("", tuple(result.tensors), 0)
        plan = Plan(recipe.text, recipe.merge_method, recipe.seed, tuple(result.problems))
        return replace(plan, models=self._models, shards=(shard,))

    def close(self) -> None:
        """Release files and connections."""
        self._laid_out = None
        for checkpoint in self._opened.values():
            checkpoint.close()
        self._opened = {}


def _tensors(recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]) -> ResultTensors:
    """What lays out the tensors that a recipe asks for."""
    return MixtureTensors(recipe, checkpoints) if recipe.mixture else ResultTensors(recipe, checkpoints)


def _of_long_approximation(plan: Plan) -> list[Problem]:
    """That approximating rows takes long, and what is quicker."""
    seconds = approximating_seconds(plan)
    if seconds < LONG_APPROXIMATION:
        return []
    return [Problem("slow-approximation", {"hours": f"{seconds / 3600:.1f}", "minutes": round(seconds / 60)})]


def _with_memory(plan: Plan, destination: Destination | None, memory: int | None) -> Plan:
    """The plan with its peak of memory, and with the way that its output files take: whole, which is quicker, or as
    streams where that is more than there is."""
    whole = peak_memory(plan, destination.held(plan) if destination else 0)
    free = free_memory() if memory is None else memory
    if destination and whole > free and destination.can_stream:
        streaming = replace(plan, streams=True)
        held = peak_memory(streaming, destination.held(streaming))
        if held < whole:
            return replace(streaming, peak_memory_bytes=held)
    return replace(plan, peak_memory_bytes=whole)


def _draw(
    recipe: Recipe,
    checkpoints: Mapping[ModelReference, Checkpoint],
    shard_size: int | None,
    *,
    complete: bool = True,
    keep_code: bool = False,
    token: Token = None,
    scaled: bool = False,
) -> Plan:
    """The plan of a recipe whose models are open; what it costs depends on where it goes, and is left out.

    Args:
        complete: whether all models could be opened; else nothing is laid out
        keep_code, token: see `make_plan`
        scaled: whether weights may be eight-bit floats with scales, if the recipe asks for it
    """
    result = _tensors(recipe, checkpoints)
    if complete:
        result.lay_out()
        if scaled and not result.problems and recipe.out_dtype in FP8:
            result.problems += scale_tensors(result)
    models = result.planned()
    plan = Plan(recipe.text, recipe.merge_method, recipe.seed, models=models)
    if not complete:
        return plan
    if result.problems:
        return replace(plan, problems=tuple(result.problems), warnings=tuple(result.warnings))
    small = ResultFiles(result, keep_code, token)
    opened = result.opened()
    bytes_out = sum(tensor.bytes for tensor in result.tensors)
    shard_size = shard_size or max(SHARD_SIZE, bytes_out // FILES)
    shards = tuple(
        with_copy(shard, opened) for shard in _cut_into_shards(result.tensors, shard_size, small.stem)
    )
    files = small.texts(shards)
    if small.problems:
        return replace(plan, problems=tuple(small.problems), warnings=tuple(result.warnings))
    tokenizer = small.report()
    files, copied = small.with_code(files, small.copied(files))
    return replace(
        plan,
        mixture=result.description() if isinstance(result, MixtureTensors) else None,
        shards=shards,
        files=files,
        copied_files=copied,
        tokenizer=tokenizer,
        warnings=(*result.warnings, *small.warnings),
        bytes_in=sum(
            opened[part.model].bytes_to_read(part.tensor)
            for tensor in result.tensors
            for part in tensor.inputs
        )
        + bytes_for_gates(models),
        bytes_out=bytes_out,
        bytes_beside=sum(len(text.encode()) for text in files.values())
        + sum(opened[index].files[file] for file, index in copied.items()),
    )


def open_model(
    reference: ModelReference, token: Token, allow_folders: bool, *, is_tokenizer: bool = False
) -> Checkpoint:
    """Open a model with the adapters that a reference names.

    Args:
        is_tokenizer: whether it may be a tokenizer alone

    Raises:
        CheckpointError: a part of it cannot be read, or does not fit.
    """
    opened: Checkpoint = open_checkpoint(
        reference.name,
        reference.revision,
        token=token,
        allow_folders=allow_folders,
        is_tokenizer=is_tokenizer,
    )
    try:
        for adapter in reference.adapters:
            where, scale = (adapter.name, adapter.revision), adapter.scale
            opened = open_adapter(opened, *where, scale, token=token, allow_folders=allow_folders)
        if reference.architecture:
            opened.config["architectures"] = [reference.architecture]
    except BaseException:
        opened.close()
        raise
    return opened


def _open_all(
    recipe: Recipe, token: Token, allow_folders: bool
) -> tuple[dict[ModelReference, Checkpoint], list[Problem]]:
    references = recipe.references()
    given = recipe.tokenizer.source if recipe.tokenizer else None

    def attempt(reference: ModelReference) -> Checkpoint | CheckpointError | PlanError:
        try:
            if reference.name in recipe.intermediates:
                return _open_intermediate(recipe, reference, token, allow_folders)
            is_tokenizer = reference == given and reference not in recipe.merged()
            return open_model(reference, token, allow_folders, is_tokenizer=is_tokenizer)
        except (CheckpointError, PlanError) as error:
            return error

    places = {source.model: source.where for source in recipe.sources()}
    opened: dict[ModelReference, Checkpoint] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(8) as pool:
        for reference, result in zip(references, pool.map(attempt, references), strict=True):
            if isinstance(result, PlanError):
                problems += result.problems  # of another recipe, with places in that one
            elif isinstance(result, CheckpointError):
                where = places.get(reference, "base_model")
                problems += [replace(problem, where=where) for problem in result.problems]
            else:
                opened[reference] = result
    return opened, problems


def _open_intermediate(
    recipe: Recipe, reference: ModelReference, token: Token, allow_folders: bool
) -> IntermediateMerge:
    """A merge that the recipe uses, planned.

    Raises:
        PlanError: it cannot be merged.
    """
    if reference != ModelReference(reference.name):
        raise PlanError(Problem("intermediate-merge-reference", {"model": str(reference)}, str(reference)))
    wanted = recipe.intermediates[reference.name]
    if wanted.out_dtype in FP8:
        raise PlanError(Problem("fp8-not-in-files", where=wanted.name))
    # Draws of one merge should not be those of the next.
    seed = int.from_bytes(hashlib.sha256(f"{recipe.seed} {wanted.seed} {wanted.name}".encode()).digest()[:7])
    wanted = replace(wanted, intermediates=recipe.intermediates, seed=seed)
    checkpoints, problems = _open_all(wanted, token, allow_folders)
    plan = _draw(wanted, checkpoints, SHARD_SIZE, complete=not problems)
    if problems or plan.problems:
        for checkpoint in checkpoints.values():
            checkpoint.close()
        raise PlanError([*problems, *plan.problems])
    plan = replace(plan, peak_memory_bytes=working_memory(plan) + held_by_merge(plan))
    return IntermediateMerge(reference.name, plan, [*checkpoints.values(), *_generated(plan)])


def _generated(plan: Plan) -> list[Checkpoint]:
    """The tensors of a plan that no file holds; what is computed cannot be read."""
    return [GeneratedCheckpoint(model.generated, plan.seed) for model in plan.models if model.generated]


def _cut_into_shards(
    tensors: Sequence[PlannedTensor], shard_size: int, stem: str
) -> tuple[PlannedShard, ...]:
    """Fill shards in the order of the model; inside one, tensors are sorted as safetensors' own writer sorts them."""
    groups: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.bytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.bytes
    shards = []
    for filename, group in zip(configs.shard_names(stem, len(groups)), groups, strict=True):
        # Scales are float32, and their weights follow them.
        group.sort(key=lambda t: (rank_in_file("F32" if t.scales else t.dtype), t.name))
        shard = PlannedShard(filename, tuple(group), 0)
        size = len(shard_header(shard)) + sum(tensor.bytes for tensor in group)
        shards.append(replace(shard, bytes=size))
    return tuple(shards)


def with_copy(shard: PlannedShard, models: Sequence[Checkpoint]) -> PlannedShard:
    """The shard, with the file of a parent on the Hub that has its very bytes, if there is one."""
    if any(tensor.copied_from is None or len(tensor.inputs) > 1 for tensor in shard.tensors):
        return shard  # one is computed, or has to be compared with other models'
    header = shard_header(shard)
    offset = len(header)
    sources = set()
    for tensor in shard.tensors:
        [part] = tensor.inputs
        stored = models[part.model].tensors[part.tensor]
        if (stored.name, stored.start) != (tensor.name, offset):
            return shard
        sources.add(SourceFile(part.model, stored.file))
        offset += tensor.bytes
    if len(sources) > 1:
        return shard
    [source] = sources
    model = models[source.model]
    is_on_hub = not (model.is_folder or is_address(model.name))
    if not is_on_hub or model.files.get(source.filename) != shard.bytes:
        return shard
    # Tensors in the same places may still follow a header that was written in another way.
    written = bytearray(len(header))
    with suppress(CheckpointError):
        model.read_range(source.filename, 0, memoryview(written))
    return replace(shard, copy_of=source) if written == header else shard

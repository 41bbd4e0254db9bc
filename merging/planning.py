"""Making a plan from a recipe and the models' headers: no weights are read, and every problem is found.

recipe -> runs of layers -> output tensors with their inputs and parameters -> shards, files, costs
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from merging import companions
from merging.architecture import (
    OUTPUT_HEAD,
    Stack,
    find_stack,
    input_embedding,
    is_tied,
    restack,
    role_of,
    stands_before_layers,
)
from merging.checkpoints import Checkpoint, TensorHeader, Token, open_checkpoint, write_header
from merging.costs import peak_memory, rough_seconds
from merging.destinations import open_destination
from merging.dtypes import FLOATS, is_known, itemsize, promote, safetensors_name
from merging.methods import MergeMethod, Parameter
from merging.methods.parameters import Scalar
from merging.plan import Input, Plan, PlannedModel, PlannedShard, PlannedTensor, SourceFile, Value
from merging.problems import CheckpointError, DestinationError, Problem
from merging.recipe import ModelReference, Parameters, Recipe, Slice, Source
from merging.settings import value_at

SHARD_SIZE = 2_000_000_000


def make_plan(
    recipe: Recipe,
    to: str | None = None,
    *,
    token: Token = None,
    overwrite: bool = False,
    shard_size: int = SHARD_SIZE,
    allow_folders: bool = True,
) -> Plan:
    """Find out what a merge will do and cost, and everything that stands in its way.

    Reads the models' configs, headers and lists of files; no weights. Never raises for a recipe that cannot
    be merged: the plan then has problems, and `plan.ok` is false.

    Args:
        recipe: what is to be merged
        to: where the result is to go, a folder or `hf://owner/name`; None leaves that unchecked
        token: whose access to the Hub to use; None: the machine's own login, False: nobody's
        overwrite: whether a model that stands at the destination may be replaced
        shard_size: largest output file, in bytes; a larger tensor has a file for itself
        allow_folders: whether models may be folders of this machine

    Returns:
        The plan, with models pinned to the commit that was read.
    """
    destination = None
    problems: list[Problem] = []
    if to is not None:
        try:
            destination = open_destination(to, token=token, overwrite=overwrite, allow_folders=allow_folders)
        except DestinationError as error:
            problems += error.problems
    checkpoints, missing = _open_all(recipe, token, allow_folders)
    problems += missing
    try:
        draft = _Draft(recipe, checkpoints)
        plan = Plan(recipe.text, recipe.merge_method, recipe.seed, models=draft.models())
        if not missing:
            draft.lay_out()
            problems += draft.problems
            plan = replace(plan, warnings=tuple(draft.warnings))
        if not missing and not draft.problems:
            shards = tuple(map(draft.with_copy, _cut_into_shards(draft.tensors, shard_size)))
            size = sum(tensor.bytes for tensor in draft.tensors)
            plan = replace(
                plan,
                shards=shards,
                files=draft.files(shards),
                copied_files=draft.copied_files(),
                warnings=tuple(draft.warnings),
                bytes_in=draft.bytes_in(),
                bytes_out=size,
                disk_bytes=destination.disk_bytes(size) if destination else size,
            )
            buffers = destination.shard_buffers if destination else 0
            plan = replace(plan, peak_memory_bytes=peak_memory(plan, buffers), seconds=rough_seconds(plan))
            if destination:
                problems += destination.check(plan.disk_bytes)
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
    return replace(plan, problems=tuple(dict.fromkeys(problems)))


def _open_all(
    recipe: Recipe, token: Token, allow_folders: bool
) -> tuple[dict[ModelReference, Checkpoint], list[Problem]]:
    references = recipe.references()

    def attempt(reference: ModelReference) -> Checkpoint | CheckpointError:
        try:
            return open_checkpoint(
                reference.name, reference.revision, token=token, allow_folders=allow_folders
            )
        except CheckpointError as error:
            return error

    places = {source.model: source.where for source in _all_sources(recipe)}
    opened: dict[ModelReference, Checkpoint] = {}
    problems = []
    with ThreadPoolExecutor(8) as pool:
        for reference, result in zip(references, pool.map(attempt, references), strict=True):
            if isinstance(result, Checkpoint):
                opened[reference] = result
            else:
                where = places.get(reference, "base_model")
                problems += [replace(problem, where=where) for problem in result.problems]
    return opened, problems


def _all_sources(recipe: Recipe) -> Iterator[Source]:
    yield from recipe.models
    for part in recipe.slices:
        yield from part.sources


@dataclass(frozen=True)
class _Run:
    """A slice with everything resolved: the sources in the method's order (the first is the base, if it is to be
    subtracted), and the layers that each gives."""

    sources: tuple[Source, ...]
    starts: tuple[int, ...]
    length: int
    parameters: Parameters
    where: str
    subtracts: bool


class _Draft:
    """A plan in the making: collects tensors, and problems wherever something does not fit."""

    def __init__(self, recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]):
        self.recipe = recipe
        self.method: MergeMethod = recipe.method
        self.checkpoints = checkpoints
        self.indices = {reference: index for index, reference in enumerate(checkpoints)}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.tensors: list[PlannedTensor] = []
        self.layer_sources: list[tuple[Checkpoint, int]] = []
        self.stacks: dict[ModelReference, Stack | None] = {}
        self.names_by_layer: dict[ModelReference, Mapping[int, list[str]]] = {}
        self.misfits: dict[tuple[str, str], list[str]] = defaultdict(list)

    def models(self) -> tuple[PlannedModel, ...]:
        return tuple(
            PlannedModel(
                reference.name,
                reference.revision,
                checkpoint.version,
                not checkpoint.repository.is_remote,
                checkpoint.architecture,
                checkpoint.parameters,
                sum(tensor.nbytes for tensor in checkpoint.tensors.values()),
            )
            for reference, checkpoint in self.checkpoints.items()
        )

    # -- layers ----------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        for reference, checkpoint in self.checkpoints.items():
            self.stacks[reference] = find_stack(checkpoint.tensors, checkpoint.config)
            self.check_not_quantised(checkpoint)
        runs = self.runs()
        if self.problems:
            return
        donor_stack = self.stacks[self.donor_reference()]
        self.outside_layers(runs[0], before=True)
        for run in runs:
            for number in range(run.length):
                self.layer(run, number, donor_stack)
        self.outside_layers(runs[-1], before=False)
        self.report_misfits()
        if not self.tensors and not self.problems:
            message = "The recipe makes a model without tensors."
            self.problems.append(Problem("empty-result", message, "Give the slices some layers."))

    def check_not_quantised(self, checkpoint: Checkpoint) -> None:
        quantisation = checkpoint.config.get("quantization_config")
        unmergeable = [
            t for t in checkpoint.tensors.values() if t.dtype.startswith("F8") or not is_known(t.dtype)
        ]
        if quantisation or unmergeable:
            how = (quantisation or {}).get("quant_method") or unmergeable[0].dtype
            message = f"{checkpoint.name} is quantised ({how}); its numbers cannot be averaged."
            fix = "Name the model that it was made from, in bfloat16, float16 or float32."
            self.problems.append(Problem("quantised", message, fix, checkpoint.name))

    def runs(self) -> list[_Run]:
        recipe = self.recipe
        if recipe.models:
            parts: Sequence[Slice] = [Slice(recipe.inputs())]
        else:
            parts = recipe.slices
        runs = [self.run(part) for part in parts]
        return [run for run in runs if run]

    def run(self, part: Slice) -> _Run | None:
        base = part.base_model or self.recipe.base_model
        sources = list(part.sources)
        subtracts = self.method.takes_off(base is not None)
        if base and self.method.takes_base:
            first = next(source for source in sources if source.model == base)
            sources.remove(first)
            sources.insert(0, first)
            if subtracts:
                # Another entry of the base would be a task vector of zeros.
                sources = [first, *(source for source in sources[1:] if source.model != base)]
        ranges = []
        for source in sources:
            stack = self.stacks[source.model]
            count = stack.count if stack else 0
            start, end = source.layer_range or (0, count)
            if end > count:
                message = f"{source.model} has {count} layers, 0 to {count - 1}; the recipe takes {start} to {end - 1}."
                fix = f"End the range at {count} at most."
                self.problems.append(Problem("layer-range", message, fix, source.where))
                return None
            ranges.append((start, end))
        lengths = {end - start for start, end in ranges}
        if len(lengths) > 1:
            given = ", ".join(
                f"{s.model}: {end - start}" for s, (start, end) in zip(sources, ranges, strict=True)
            )
            message = f"The models have different numbers of layers ({given}) and cannot be merged whole."
            fix = "Use `slices:` to say which layers belong together."
            self.problems.append(Problem("unequal-layers", message, fix, part.where or sources[0].where))
            return None
        starts = tuple(start for start, _ in ranges)
        return _Run(tuple(sources), starts, lengths.pop(), part.parameters, part.where, subtracts)

    def layer(self, run: _Run, number: int, donor_stack: Stack | None) -> None:
        """Plan one output layer."""
        position = (
            number / (run.length - 1) if run.length > 1 else 1.0
        )  # as mergekit: a lone layer is the last
        output = len(self.layer_sources)
        named: list[dict[str, str]] = []
        for source, start in zip(run.sources, run.starts, strict=True):
            stack = self.stacks[source.model]
            assert stack
            prefix = stack.join(start + number, "")
            names = self.layer_names(source.model).get(start + number, [])
            named.append({name[len(prefix) :]: name for name in names})
        first = int(self.method.target_first)
        donor = self.checkpoints[run.sources[first].model]
        self.layer_sources.append((donor, run.starts[first] + number))
        assert donor_stack
        for rest in dict.fromkeys(rest for names in named for rest in names):
            self.tensor(
                run, donor_stack.join(output, rest), [names.get(rest) for names in named], position, output
            )

    def layer_names(self, reference: ModelReference) -> Mapping[int, list[str]]:
        if reference not in self.names_by_layer:
            stack = self.stacks[reference]
            by_layer: dict[int, list[str]] = defaultdict(list)
            for name in self.checkpoints[reference].tensors:
                place = stack.split(name) if stack else None
                if place:
                    by_layer[place[0]].append(name)
            self.names_by_layer[reference] = by_layer
        return self.names_by_layer[reference]

    def outside_layers(self, run: _Run, *, before: bool) -> None:
        """Plan the tensors before or after the layers; both take the first value of a gradient, as in mergekit."""
        names: dict[str, None] = {}
        for source in run.sources:
            stack = self.stacks[source.model]
            for name in self.checkpoints[source.model].tensors:
                if not (stack and stack.split(name)) and stands_before_layers(name) == before:
                    names[name] = None
        for name in names:
            own = [self.own_or_tied(source.model, name) for source in run.sources]
            self.tensor(run, name, own, 0.0, None)

    def own_or_tied(self, reference: ModelReference, name: str) -> str | None:
        """The tensor of a model that stands for this name; a tied head is the embedding matrix."""
        checkpoint = self.checkpoints[reference]
        if name in checkpoint.tensors:
            return name
        if OUTPUT_HEAD.search(name) and is_tied(checkpoint.config):
            return input_embedding(checkpoint.tensors)
        return None

    # -- tensors ---------------------------------------------------------------------------------------

    def tensor(
        self, run: _Run, name: str, names: Sequence[str | None], position: float, layer: int | None
    ) -> None:
        if self.method.target_first and self.left_alone(run, name, names, position, layer):
            return
        headers: list[TensorHeader] = []
        for source, own in zip(run.sources, names, strict=True):
            if own is None:
                self.misfits["missing-tensor", str(source.model)].append(name)
            else:
                headers.append(self.checkpoints[source.model].tensors[own])
        if len(headers) < len(names):
            return
        for source, header in zip(run.sources, headers, strict=True):
            if header.shape != headers[0].shape:
                vocabulary = header.shape[1:] == headers[0].shape[1:] and (
                    stands_before_layers(name) or OUTPUT_HEAD.search(name)
                )
                code = "vocabulary" if vocabulary else "shape"
                shapes = f"{name} {list(header.shape)} instead of {list(headers[0].shape)}"
                self.misfits[code, str(source.model)].append(shapes)
        inputs = tuple(
            Input(self.indices[source.model], h.name) for source, h in zip(run.sources, headers, strict=True)
        )
        stored = {header.dtype for header in headers}
        if not stored <= set(FLOATS):
            if len(stored) > 1:
                self.misfits["shape", str(run.sources[1].model)].append(
                    f"{name} with dtypes {sorted(stored)}"
                )
            # Counters and masks: not averaged; the run makes sure that all models have the same.
            dtype = headers[0].dtype
            self.tensors.append(PlannedTensor(name, dtype, headers[0].shape, inputs, {}, 0, layer))
            return
        wanted = self.recipe.out_dtype or self.recipe.dtype
        dtype = safetensors_name(wanted) if wanted else promote(stored)
        values = self.values(run, name, [header.name for header in headers], position)
        if values is None:
            return
        decided = self.method.decided_by(self.arguments(values))
        if decided is not None:
            decided += run.subtracts
            if headers[decided].dtype != dtype:
                decided = None
        parameters = {} if decided is not None else values
        if decided is not None:
            inputs, decided = (inputs[decided],), 0
        self.tensors.append(PlannedTensor(name, dtype, headers[0].shape, inputs, parameters, decided, layer))

    def left_alone(
        self, run: _Run, name: str, names: Sequence[str | None], position: float, layer: int | None
    ) -> bool:
        """Plan a tensor that the target has as the result will; no other model need have it, or in that shape."""
        base, target, other = (
            self.checkpoints[source.model].tensors.get(own or "")
            for source, own in zip(run.sources, names, strict=True)
        )
        values = self.values(run, name, [own or name for own in names], position)
        if target is None or values is None or self.method.decided_by(self.arguments(values)) != 0:
            return False
        if base and other and base.shape != other.shape:
            lead, follower = run.sources[1].model, run.sources[2].model
            message = (
                f"{follower} has another vocabulary than {run.sources[0].model}, so that was not its base."
            )
            fix = f"Name the model that receives first, then the one that gives: {follower}, then {lead}?"
            if not any(problem.code == "roles" for problem in self.problems):
                self.problems.append(Problem("roles", message, fix, run.sources[2].where))
        wanted = self.recipe.out_dtype or self.recipe.dtype
        dtype = safetensors_name(wanted) if wanted and target.dtype in FLOATS else target.dtype
        copied = 0 if dtype == target.dtype else None
        inputs = (Input(self.indices[run.sources[1].model], target.name),)
        parameters = {} if copied is not None else values
        self.tensors.append(PlannedTensor(name, dtype, target.shape, inputs, parameters, copied, layer))
        return True

    def arguments(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {parameter.argument: values[parameter.name] for parameter in self.method.parameters}

    def values(self, run: _Run, name: str, names: Sequence[str], position: float) -> dict[str, Value] | None:
        """Every parameter's value for one tensor; shared ones are filtered by its output name, others by their own."""
        shared = (run.parameters, self.recipe.parameters)
        values: dict[str, Value] = {}
        for parameter in self.method.parameters:
            if not parameter.per_model:
                values[parameter.name] = self.value(parameter, shared, name, position, run.where)
                continue
            own = []
            for source, source_name in list(zip(run.sources, names, strict=True))[run.subtracts :]:
                levels = (source.parameters, *shared)
                own.append(self.value(parameter, levels, source_name, position, source.where))
            values[parameter.name] = own  # type: ignore[assignment]
        if any(value is None or (isinstance(value, list) and None in value) for value in values.values()):
            return None
        wrong = self.method.check(self.arguments(values))
        if wrong:
            message = f"{self.method.title}, {name}: {wrong}."
            if not any(problem.code == "parameters" for problem in self.problems):
                self.problems.append(
                    Problem("parameters", message, "Change the parameters there.", run.where)
                )
            return None
        return values

    def value(
        self, parameter: Parameter, levels: Iterable[Parameters], name: str, position: float, where: str
    ) -> Scalar | None:
        if parameter.roles and role_of(name) not in parameter.roles:
            return True
        for level in levels:
            if parameter.name in level:
                value = value_at(level[parameter.name], name, position)
                if value is not None:
                    return parameter.convert(value)
        if parameter.required:
            message = f"No filter of `{parameter.name}` matches {name}."
            fix = "Add a last entry without a filter: `- value: ...`."
            if not any(p.code == "missing-parameter" and p.where == where for p in self.problems):
                self.problems.append(Problem("missing-parameter", message, fix, where))
        return parameter.default

    def report_misfits(self) -> None:
        for (code, model), found in self.misfits.items():
            some = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
            if code == "missing-tensor":
                message = f"{model} lacks tensors that the other models have: {some}."
                fix = "Merge models of one architecture."
            elif code == "vocabulary":
                message = f"The vocabulary of {model} has another size: {some}."
                fix = "Merge models of one vocabulary; aligning vocabularies is not supported yet."
            else:
                message = f"Tensors of {model} have another shape: {some}."
                fix = "Merge models of one size; fine-tunes of one base always fit."
            self.problems.append(Problem(code, message, fix, model))

    # -- files -----------------------------------------------------------------------------------------

    def donor_reference(self) -> ModelReference:
        """The model that gives config and tokenizer: the target of the merge, the base, else the first named."""
        named = [source.model for source in _all_sources(self.recipe)]
        if self.method.target_first:
            return next(model for model in named if model != self.recipe.base_model)
        return self.recipe.base_model or named[0]

    def files(self, shards: Sequence[PlannedShard]) -> dict[str, str]:
        """The small files that are written, with their text."""
        reference = self.donor_reference()
        donor = self.checkpoints[reference]
        dtype = companions.main_dtype((tensor.dtype, tensor.bytes) for tensor in self.tensors)
        config = companions.merged_config(donor.config, dtype)
        stack = self.stacks[reference]
        if stack and self.recipe.slices:
            restack(config, stack, [(source.config, layer) for source, layer in self.layer_sources])
        if is_tied(config) and any(OUTPUT_HEAD.search(tensor.name) for tensor in self.tensors):
            # A parent had a head of its own, so the result has one; a tied config would throw it away.
            config["tie_word_embeddings"] = False
        files = {"config.json": companions.as_json(config), "mergekit_config.yml": self.recipe.text}
        if donor.has("generation_config.json"):
            generation = companions.without_traces(donor.read_json("generation_config.json"))
            files["generation_config.json"] = companions.as_json(generation)
        else:
            message = f"{donor.name} has no generation_config.json; the result will have none."
            self.warnings.append(Problem("no-generation-config", message))
        tokenizer = self.tokenizer()
        if tokenizer.has("tokenizer_config.json"):
            settings = companions.without_traces(tokenizer.read_json("tokenizer_config.json"))
            files["tokenizer_config.json"] = companions.as_json(settings)
        if len(shards) > 1:
            files["model.safetensors.index.json"] = companions.index(shards)
        return files

    def tokenizer(self) -> Checkpoint:
        return self.checkpoints[self.recipe.tokenizer_source or self.donor_reference()]

    def copied_files(self) -> dict[str, int]:
        """The files that are taken over as they are, with the model they come from."""
        donor = self.tokenizer()
        found = companions.tokenizer_files(donor)
        if not found:
            message = f"{donor.name} has no tokenizer; the result will have none."
            self.warnings.append(Problem("no-tokenizer", message, "Name one with `tokenizer_source:`."))
        index = self.indices[self.recipe.tokenizer_source or self.donor_reference()]
        return {file: index for file in found if file != "tokenizer_config.json"}

    def with_copy(self, shard: PlannedShard) -> PlannedShard:
        """The shard, with the file of a parent on the Hub that has its very bytes, if there is one."""
        header = shard_header(shard)
        offset = len(header)
        sources = set()
        for tensor in shard.tensors:
            if tensor.copied_from is None or len(tensor.inputs) > 1:
                return shard  # it is computed, or has to be compared with other models'
            [part] = tensor.inputs
            stored = self.checkpoints_by_index[part.model].tensors[part.tensor]
            if (stored.name, stored.start) != (tensor.name, offset):
                return shard
            sources.add(SourceFile(part.model, stored.file))
            offset += tensor.bytes
        if len(sources) > 1:
            return shard
        [source] = sources
        repository = self.checkpoints_by_index[source.model].repository
        if not repository.is_remote or repository.files[source.filename] != shard.bytes:
            return shard
        # Tensors in the same places may still stand behind a header that was written another way.
        written = bytearray(len(header))
        with suppress(CheckpointError):
            repository.read_into(source.filename, 0, memoryview(written))
        return replace(shard, copy_of=source) if written == header else shard

    def bytes_in(self) -> int:
        sizes = (
            self.checkpoints_by_index[part.model].tensors[part.tensor].nbytes
            for tensor in self.tensors
            for part in tensor.inputs
        )
        return sum(sizes)

    @property
    def checkpoints_by_index(self) -> list[Checkpoint]:
        return list(self.checkpoints.values())


def _cut_into_shards(tensors: Sequence[PlannedTensor], shard_size: int) -> tuple[PlannedShard, ...]:
    """Fill shards in the order of the model; inside one, tensors stand as safetensors' own writer puts them."""
    groups: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.bytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.bytes
    shards = []
    for filename, group in zip(companions.shard_names(len(groups)), groups, strict=True):
        group.sort(key=lambda tensor: (-itemsize(tensor.dtype), tensor.name))
        shard = PlannedShard(filename, tuple(group), 0)
        size = len(shard_header(shard)) + sum(tensor.bytes for tensor in group)
        shards.append(replace(shard, bytes=size))
    return tuple(shards)


def shard_header(shard: PlannedShard) -> bytes:
    """The first bytes of an output file."""
    return write_header(
        TensorHeader(t.name, t.dtype, t.shape, shard.filename, 0, t.bytes) for t in shard.tensors
    )

"""Making a plan from a recipe and the models' headers: no weights are read, and every problem is found.

recipe -> runs of layers -> output tensors with their inputs and parameters -> shards, files, costs
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from merging import companions
from merging.architecture import (
    DERIVED,
    HEAD_BIAS,
    OUTPUT_HEAD,
    Layout,
    Module,
    input_embedding,
    is_tied,
    renamed,
    restack,
    role_of,
    stands_before_layers,
)
from merging.chat_templates import TEMPLATES
from merging.checkpoints import (
    Adapter,
    AlignedCheckpoint,
    Alignment,
    Checkpoint,
    TensorHeader,
    Token,
    open_adapter,
    open_checkpoint,
    tokenizer_files,
    write_header,
)
from merging.checkpoints.aligned import Rows
from merging.checkpoints.tokenizer_files import is_template
from merging.costs import peak_memory, rough_seconds
from merging.destinations import open_destination
from merging.dtypes import FLOATS, is_known, itemsize, promote, safetensors_name
from merging.methods import MergeMethod, Parameter
from merging.methods.parameters import Scalar
from merging.plan import (
    Input,
    Plan,
    PlannedAdapter,
    PlannedModel,
    PlannedShard,
    PlannedTensor,
    SourceFile,
    Value,
)
from merging.problems import CheckpointError, DestinationError, MergeError, PlanError, Problem
from merging.recipe import ModelReference, Parameters, Recipe, Slice, Source
from merging.settings import value_at
from merging.stage import Stage
from merging.vocabulary import OTHER_FORMS, TOKENIZER, Tokenizer, Vocabulary, differences, read_tokenizer

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
        plan = _draw(recipe, checkpoints, shard_size, complete=not missing)
        problems += plan.problems
        if not problems or plan.shards:
            size = plan.bytes_out
            plan = replace(plan, disk_bytes=destination.disk_bytes(size) if destination else size)
            buffers = destination.shard_buffers if destination else 0
            plan = replace(plan, peak_memory_bytes=peak_memory(plan, buffers), seconds=rough_seconds(plan))
            if destination:
                problems += destination.check(plan.disk_bytes)
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
    return replace(plan, problems=tuple(dict.fromkeys(problems)))


def _draw(
    recipe: Recipe,
    checkpoints: Mapping[ModelReference, Checkpoint],
    shard_size: int,
    *,
    complete: bool = True,
) -> Plan:
    """The plan of a recipe whose models are open; what it costs depends on where it goes, and is left out.

    Args:
        complete: whether all models could be opened; else nothing is laid out
    """
    draft = _Draft(recipe, checkpoints)
    plan = Plan(recipe.text, recipe.merge_method, recipe.seed, models=draft.models())
    if not complete:
        return plan
    draft.lay_out()
    if draft.problems:
        return replace(plan, problems=tuple(draft.problems), warnings=tuple(draft.warnings))
    shards = tuple(map(draft.with_copy, _cut_into_shards(draft.tensors, shard_size, draft.stem)))
    files = draft.files(shards)
    return replace(
        plan,
        models=draft.models(),
        shards=shards,
        files=files,
        copied_files=draft.copied_files(files),
        warnings=tuple(draft.warnings),
        bytes_in=draft.bytes_in(),
        bytes_out=sum(tensor.bytes for tensor in draft.tensors),
    )


def open_model(reference: ModelReference, token: Token, allow_folders: bool) -> Checkpoint:
    """Open a model with the adapters that a reference names.

    Raises:
        CheckpointError: a part of it cannot be read, or does not fit.
    """
    opened = open_checkpoint(reference.name, reference.revision, token=token, allow_folders=allow_folders)
    try:
        for adapter in reference.adapters:
            where, scale = (adapter.name, adapter.revision), adapter.scale
            opened = open_adapter(opened, *where, scale, token=token, allow_folders=allow_folders)
    except BaseException:
        opened.close()
        raise
    return opened


def _open_all(
    recipe: Recipe, token: Token, allow_folders: bool
) -> tuple[dict[ModelReference, Checkpoint], list[Problem]]:
    references = recipe.references()

    def attempt(reference: ModelReference) -> Checkpoint | MergeError:
        try:
            if reference.name in recipe.stages:
                return _open_stage(recipe, reference, token, allow_folders)
            return open_model(reference, token, allow_folders)
        except (CheckpointError, PlanError) as error:
            return error

    places = {source.model: source.where for source in recipe.sources()}
    opened: dict[ModelReference, Checkpoint] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(8) as pool:
        for reference, result in zip(references, pool.map(attempt, references), strict=True):
            if isinstance(result, Checkpoint):
                opened[reference] = result
            elif isinstance(result, PlanError):
                problems += result.problems  # of another recipe, with places in that one
            else:
                where = places.get(reference, "base_model")
                problems += [replace(problem, where=where) for problem in result.problems]
    return opened, problems


def _open_stage(recipe: Recipe, reference: ModelReference, token: Token, allow_folders: bool) -> Stage:
    """A merge that the recipe uses, planned.

    Raises:
        PlanError: it cannot be merged.
    """
    if reference.revision or reference.adapters:
        message = f"{reference} names a merge of this text, with a revision or an adapter."
        fix = "Apply the adapter to a model in that merge, or merge it first."
        raise PlanError(Problem("stage-reference", message, fix, str(reference)))
    wanted = recipe.stages[reference.name]
    # Draws of one merge should not be those of the next.
    seed = int.from_bytes(hashlib.sha256(f"{recipe.seed} {wanted.seed} {wanted.name}".encode()).digest()[:7])
    wanted = replace(wanted, stages=recipe.stages, seed=seed)
    checkpoints, problems = _open_all(wanted, token, allow_folders)
    plan = _draw(wanted, checkpoints, SHARD_SIZE, complete=not problems)
    if problems or plan.problems:
        for checkpoint in checkpoints.values():
            checkpoint.close()
        raise PlanError([*problems, *plan.problems])
    return Stage(
        reference.name, replace(plan, peak_memory_bytes=peak_memory(plan, 0)), list(checkpoints.values())
    )


def _planned_adapter(adapter: Adapter) -> PlannedAdapter:
    sizes = (header.elements * 4 for header in adapter.tensors.values())
    return PlannedAdapter(
        adapter.name,
        adapter.revision,
        adapter.version,
        not adapter.repository.is_remote,
        adapter.scale,
        sum(sizes),
    )


@dataclass(frozen=True)
class _Run:
    """A slice of a module with everything resolved: the sources in the method's order, and the layers that each gives.

    Args:
        module: of the donor, whose names the output has
        sources, modules: the models, the base first if it is subtracted, and the module of each that is merged
        starts, length: the first layer of each, and how many
        levels: the parameters that all sources share, of the slice, the module and the recipe
        subtracts: whether the first source is a base that is subtracted from the others
    """

    module: Module
    sources: tuple[Source, ...]
    modules: tuple[Module, ...]
    starts: tuple[int, ...]
    length: int
    levels: tuple[Parameters, ...]
    where: str
    subtracts: bool


class _Draft:
    """A plan in the making: collects tensors, and problems wherever something does not fit."""

    def __init__(self, recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]):
        self.recipe = recipe
        self.method: MergeMethod = recipe.method
        self.checkpoints = dict(checkpoints)
        self.stages = {r: c for r, c in checkpoints.items() if isinstance(c, Stage)}
        self.vocabulary: Vocabulary | None = None
        self.alignments: dict[ModelReference, Alignment] = {}
        self.indices = {reference: index for index, reference in enumerate(checkpoints)}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.tensors: list[PlannedTensor] = []
        self.layouts: dict[ModelReference, Layout] = {}
        # For each module that is built anew, where its layers come from.
        self.layer_sources: dict[str, list[tuple[Layout, int]]] = defaultdict(list)
        self.names_by_layer: dict[tuple[ModelReference, str], Mapping[int, list[str]]] = {}
        self.layer_shapes: dict[str, Mapping[str, set[tuple[int, ...]]]] = {}
        self.derived: list[str] = []
        self.misfits: dict[tuple[str, str], list[str]] = defaultdict(list)

    def models(self) -> tuple[PlannedModel, ...]:
        return tuple(
            PlannedModel(
                reference.name,
                reference.revision,
                checkpoint.version,
                not checkpoint.is_remote if reference in self.stages else not checkpoint.repository.is_remote,
                checkpoint.architecture,
                checkpoint.parameters,
                sum(tensor.stored_bytes for tensor in checkpoint.tensors.values()),
                tuple(map(_planned_adapter, checkpoint.adapters)),
                self.alignments.get(reference),
                stage.plan if (stage := self.stages.get(reference)) else None,
            )
            for reference, checkpoint in self.checkpoints.items()
        )

    # -- layers ----------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        for reference, checkpoint in self.checkpoints.items():
            self.warnings += checkpoint.warnings
            if stage := self.stages.get(reference):
                self.warnings += stage.plan.warnings
            self.layouts[reference] = Layout(checkpoint.tensors, checkpoint.config)
            self.check_not_quantised(checkpoint)
        self.align()
        planned = self.runs()
        if self.problems:
            return
        for module, runs in planned:
            if not runs:
                self.take_over(module)
                continue
            self.outside_layers(runs[0], before=True)
            for run in runs:
                for number in range(run.length):
                    self.layer(run, number)
            self.outside_layers(runs[-1], before=False)
        self.report_misfits()
        if not self.tensors and not self.problems:
            message = "The recipe makes a model without tensors."
            self.problems.append(Problem("empty-result", message, "Give the slices some layers."))

    # -- vocabulary ------------------------------------------------------------------------------------

    def align(self) -> None:
        """Put the rows of every model in the order that the recipe's tokenizer asks for."""
        section, base = self.recipe.tokenizer, self.donor_reference()
        if section is None:
            return
        rows = {reference: self.rows(reference) for reference in self.checkpoints}
        tokenizers = self.tokenizers(rows)
        if tokenizers.keys() != rows.keys():
            return
        self.vocabulary = Vocabulary(section, tokenizers, rows, base)
        opened = tuple(self.checkpoints.values())
        by_token = {reference: self.by_token(reference) for reference in self.checkpoints}
        heads = {name for names in by_token.values() for name in names if OUTPUT_HEAD.search(name)}
        names = {
            reference: dict.fromkeys([*own, *(name for name in heads if self.tied(reference, name))])
            for reference, own in by_token.items()
        }
        tensors = {
            reference: {name: self.namesakes(name, reference) for name in own}
            for reference, own in names.items()
        }
        for reference, checkpoint in self.checkpoints.items():
            found = self.vocabulary.rows(reference, self.indices)
            same = (Rows(rows[reference], ((self.indices[reference], 0),)),)
            if found != same or self.vocabulary.padding:
                self.alignments[reference] = Alignment(found, self.vocabulary.padding, tensors[reference])
                self.checkpoints[reference] = AlignedCheckpoint(
                    checkpoint, self.alignments[reference], opened
                )
        self.vocabulary.check()
        self.problems += self.vocabulary.problems
        self.warnings += self.vocabulary.warnings

    def rows(self, reference: ModelReference) -> int:
        """How many tokens a model has rows for."""
        embedding = self.embedding(reference)
        return self.checkpoints[reference].tensors[embedding].shape[0] if embedding else 0

    def embedding(self, reference: ModelReference) -> str | None:
        layout = self.layouts[reference]
        return input_embedding(layout.names_by_module[layout.main.name]) or input_embedding(layout.names)

    def tokenizers(self, rows: Mapping[ModelReference, int]) -> dict[ModelReference, Tokenizer]:
        """Of every model; one without any, and with as many rows as the base, is taken to have the base's."""
        found: dict[ModelReference, Tokenizer] = {}
        base = self.donor_reference()
        for reference in (base, *(other for other in self.checkpoints if other != base)):
            checkpoint = self.checkpoints[reference]
            if base in found and not tokenizer_files(checkpoint.files) and rows[reference] == rows[base]:
                message = f"{reference} has no tokenizer; it is taken to have that of {base}."
                self.warnings.append(Problem("tokenizer-assumed", message))
                found[reference] = replace(found[base], model=reference)
                continue
            try:
                found[reference] = read_tokenizer(reference, checkpoint)
            except CheckpointError as error:
                self.problems += error.problems
        return {reference: found[reference] for reference in self.checkpoints if reference in found}

    def vocabularies(self) -> str:
        """In words, how the models' vocabularies differ; empty if their tokenizers cannot be read."""
        found = {}
        for reference, checkpoint in self.checkpoints.items():
            with suppress(CheckpointError):
                found[reference] = read_tokenizer(reference, checkpoint)
        text = differences(found, {reference: self.rows(reference) for reference in found})
        return text and f"{text}."

    def by_token(self, reference: ModelReference) -> list[str]:
        """The tensors of a model that have a row a token."""
        count, embedding = self.rows(reference), self.embedding(reference)
        return [
            name
            for name, header in self.checkpoints[reference].tensors.items()
            if header.shape[:1] == (count,)
            and (name == embedding or OUTPUT_HEAD.search(name) or HEAD_BIAS.search(name))
        ]

    def namesakes(self, name: str, reference: ModelReference) -> tuple[str, ...]:
        """What a tensor with a row a token is called in every model; a tied head is the embedding matrix."""
        if name == self.embedding(reference):
            return tuple(self.embedding(other) or "" for other in self.checkpoints)
        return tuple(
            name if name in self.checkpoints[other].tensors else self.tied(other, name) or ""
            for other in self.checkpoints
        )

    # -- what is merged --------------------------------------------------------------------------------

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

    def runs(self) -> list[tuple[Module, list[_Run]]]:
        """The runs of layers that each module of the output is made of; none: it is taken over from the donor."""
        recipe = self.recipe
        donor = self.layouts[self.donor_reference()]
        modules = donor.modules.values()
        common = (recipe.parameters,)
        if recipe.models:
            part = Slice(recipe.with_base(recipe.models))
            planned = [(module, self.runs_of(module, [part], common)) for module in modules]
        elif recipe.slices:
            if donor.main.is_one_of_equals and len(donor.modules) > 1:
                names = " and ".join(module.name for module in modules if module.stack)
                message = f"{self.donor_reference()} has several stacks of layers ({names}), and `slices` speak of one."
                fix = "Write `modules:`, and below it the name of each with its own `slices:` or `models:`."
                self.problems.append(Problem("several-stacks", message, fix, recipe.slices[0].where))
                return []
            first = recipe.slices[0]
            whole = replace(first, sources=tuple(replace(s, layer_range=None) for s in first.sources))
            planned = [
                (module, self.runs_of(module, recipe.slices if module == donor.main else [whole], common))
                for module in modules
            ]
        else:
            planned = self.runs_by_module(donor)
        return planned

    def runs_by_module(self, donor: Layout) -> list[tuple[Module, list[_Run]]]:
        recipe = self.recipe
        named = {}
        for part in recipe.modules:
            module = donor.find(part.module)
            if module is None or module.name in named:
                message = f"{self.donor_reference()} has no module '{part.module}'" + (
                    " of its own." if module else "."
                )
                fix = f"It consists of {', '.join(donor.modules)}."
                self.problems.append(Problem("unknown-module", message, fix, part.where))
            else:
                named[module.name] = part
        planned: list[tuple[Module, list[_Run]]] = []
        for module in donor.modules.values():
            if module.name not in named:
                message = f"The recipe says nothing about {module.name}; it is {self.donor_reference()}'s, unchanged."
                self.warnings.append(Problem("module-taken-over", message))
                planned.append((module, []))
                continue
            part = named[module.name]
            parts = part.slices or [Slice(recipe.with_base(part.models), where=part.where)]
            planned.append((module, self.runs_of(module, parts, (part.parameters, recipe.parameters))))
        return planned

    def runs_of(self, module: Module, parts: Iterable[Slice], levels: tuple[Parameters, ...]) -> list[_Run]:
        runs = [self.run(module, part, (part.parameters, *levels)) for part in parts]
        return [run for run in runs if run]

    def counterpart(self, reference: ModelReference, module: Module) -> Module | None:
        """The module of a model that is merged into a module of the donor."""
        layout = self.layouts[reference]
        if module == self.layouts[self.donor_reference()].main:
            return layout.modules.get(module.name, layout.main)
        return layout.find(module.name)

    def run(self, module: Module, part: Slice, levels: tuple[Parameters, ...]) -> _Run | None:
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
        ranges, modules = [], []
        for source in sources:
            own = self.counterpart(source.model, module)
            if own is None or (own.stack is None) != (module.stack is None):
                message = f"{source.model} has no {module.name}, as {self.donor_reference()} has."
                fix = "Say with `modules:` which models each part is made of."
                self.problems.append(Problem("missing-module", message, fix, source.where))
                return None
            modules.append(own)
            count = own.stack.count if own.stack else 0
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
        return _Run(
            module, tuple(sources), tuple(modules), starts, lengths.pop(), levels, part.where, subtracts
        )

    def layer(self, run: _Run, number: int) -> None:
        """Plan one output layer."""
        position = (
            number / (run.length - 1) if run.length > 1 else 1.0
        )  # as mergekit: a lone layer is the last
        layers = self.layer_sources[run.module.name]
        output = len(layers)
        named: list[dict[str, str]] = []
        for source, module, start in zip(run.sources, run.modules, run.starts, strict=True):
            assert module.stack
            prefix = module.stack.join(start + number, "")
            names = self.layer_names(source.model, module).get(start + number, [])
            named.append({name[len(prefix) :]: name for name in names})
        first = int(self.method.target_first)
        layers.append((self.layouts[run.sources[first].model], run.starts[first] + number))
        assert run.module.stack
        for rest in dict.fromkeys(rest for names in named for rest in names):
            name = run.module.stack.join(output, rest)
            self.tensor(run, name, [names.get(rest) for names in named], position, output)

    def layer_names(self, reference: ModelReference, module: Module) -> Mapping[int, list[str]]:
        key = reference, module.name
        if key not in self.names_by_layer:
            by_layer: dict[int, list[str]] = defaultdict(list)
            for name in self.layouts[reference].names_by_module[module.name]:
                place = module.stack.split(name) if module.stack else None
                if place:
                    by_layer[place[0]].append(name)
            self.names_by_layer[key] = by_layer
        return self.names_by_layer[key]

    def outside_layers(self, run: _Run, *, before: bool) -> None:
        """Plan the tensors before or after the layers; both take the first value of a gradient, as in mergekit."""
        named: list[dict[str, str]] = []
        for source, module in zip(run.sources, run.modules, strict=True):
            names = {}
            for name in self.layouts[source.model].names_by_module[module.name]:
                if not (module.stack and module.stack.split(name)) and stands_before_layers(name) == before:
                    names[renamed(name, module.stack, run.module.stack)] = name
            named.append(names)
        for name in dict.fromkeys(name for names in named for name in names):
            own = [
                names.get(name) or self.tied(source.model, name)
                for source, names in zip(run.sources, named, strict=True)
            ]
            self.tensor(run, name, own, 0.0, None)

    def take_over(self, module: Module) -> None:
        """Plan the tensors of a module as the donor has them."""
        donor = self.donor_reference()
        for name in self.layouts[donor].names_by_module[module.name]:
            header = self.checkpoints[donor].tensors[name]
            place = module.stack.split(name) if module.stack else None
            inputs = (Input(self.indices[donor], name),)
            self.taken(name, header, inputs, self.output_dtype({header.stored_dtype}), place and place[0])

    def tied(self, reference: ModelReference, name: str) -> str | None:
        """The tensor of a model that stands for a head which it does not have: a tied head is the embedding matrix."""
        if not (OUTPUT_HEAD.search(name) and is_tied(self.layouts[reference].config)):
            return None
        # Rows for tokens of other models come from their heads, so that an aligned head is no longer the embedding.
        return name if name in self.checkpoints[reference].tensors else self.embedding(reference)

    # -- tensors ---------------------------------------------------------------------------------------

    def tensor(
        self, run: _Run, name: str, names: Sequence[str | None], position: float, layer: int | None
    ) -> None:
        if None in names and DERIVED.search(name):
            self.derived.append(name)
            return
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
        if self.is_foreign(run, name, headers[0].shape, layer):
            self.misfits["foreign-tensor", str(run.sources[0].model)].append(
                f"{name} {list(headers[0].shape)}"
            )
            return
        inputs = tuple(
            Input(self.indices[source.model], h.name) for source, h in zip(run.sources, headers, strict=True)
        )
        stored = {header.stored_dtype for header in headers}
        if not stored <= set(FLOATS):
            if len(stored) > 1:
                self.misfits["shape", str(run.sources[1].model)].append(
                    f"{name} with dtypes {sorted(stored)}"
                )
            # Counters and masks: not averaged; the run makes sure that all models have the same.
            dtype = headers[0].dtype
            self.tensors.append(PlannedTensor(name, dtype, headers[0].shape, inputs, {}, 0, layer))
            return
        dtype = self.output_dtype(stored)
        values = self.values(run, name, [header.name for header in headers], position)
        if values is None:
            return
        decided = self.method.decided_by(self.arguments(values))
        if decided is not None:
            decided += run.subtracts
            self.taken(name, headers[decided], inputs[decided : decided + 1], dtype, layer)
            return
        self.tensors.append(PlannedTensor(name, dtype, headers[0].shape, inputs, values, None, layer))

    def taken(
        self, name: str, header: TensorHeader, inputs: tuple[Input, ...], dtype: str, layer: int | None
    ) -> None:
        """Plan a tensor that is one model's, rounded if another dtype is wanted."""
        copied = 0 if header.dtype == dtype else None
        self.tensors.append(PlannedTensor(name, dtype, header.shape, inputs, {}, copied, layer))

    def output_dtype(self, stored: set[str]) -> str:
        wanted = self.recipe.out_dtype or self.recipe.dtype
        if not stored <= set(FLOATS):
            [dtype] = stored
            return dtype
        return safetensors_name(wanted) if wanted else promote(stored)

    def is_foreign(self, run: _Run, name: str, shape: tuple[int, ...], layer: int | None) -> bool:
        """Whether the model that gives the config has no tensor like this one, so that loaders would not take it."""
        donor = self.donor_reference()
        if any(source.model == donor for source in run.sources) or OUTPUT_HEAD.search(name):
            return False
        if layer is None or run.module.stack is None:
            header = self.checkpoints[donor].tensors.get(name)
            return header is None or header.shape != shape
        rest = name[len(run.module.stack.join(layer, "")) :]
        return shape not in self.shapes_in_layers(run.module)[rest]

    def shapes_in_layers(self, module: Module) -> Mapping[str, set[tuple[int, ...]]]:
        """The shapes that the donor's layers have, by what stands behind the layer's number."""
        if module.name not in self.layer_shapes:
            found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
            donor = self.donor_reference()
            for layer, names in self.layer_names(donor, module).items():
                assert module.stack
                prefix = module.stack.join(layer, "")
                for name in names:
                    found[name[len(prefix) :]].add(self.checkpoints[donor].tensors[name].shape)
            self.layer_shapes[module.name] = found
        return self.layer_shapes[module.name]

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
        inputs = (Input(self.indices[run.sources[1].model], target.name),)
        self.taken(name, target, inputs, self.output_dtype({target.stored_dtype}), layer)
        return True

    def arguments(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {parameter.argument: values[parameter.name] for parameter in self.method.parameters}

    def values(self, run: _Run, name: str, names: Sequence[str], position: float) -> dict[str, Value] | None:
        """Every parameter's value for one tensor; shared ones are filtered by its output name, others by their own."""
        shared = run.levels
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
        if self.derived:
            message = (
                f"Not all models have {_some(self.derived)}; the result has none, for loaders compute them."
            )
            self.warnings.append(Problem("derived-tensor", message))
        for (code, model), found in self.misfits.items():
            some = _some(found)
            if code == "foreign-tensor":
                donor = self.donor_reference()
                message = f"{model} has tensors that the result, with the config of {donor}, has no place for: {some}."
                fix = "Name a base model of the same architecture and size."
            elif code == "missing-tensor":
                message = f"{model} lacks tensors that the other models have: {some}."
                fix = "Merge models of one architecture."
            elif code == "vocabulary":
                message = f"The vocabulary of {model} has another size: {some}. {self.vocabularies()}"
                fix = (
                    "Add `tokenizer_source: union` for the tokens of all models, `tokenizer_source: base` for those of "
                    "the base model, or name a model there for its own."
                )
            else:
                message = f"Tensors of {model} have another shape: {some}."
                fix = "Merge models of one size; fine-tunes of one base always fit."
            self.problems.append(Problem(code, message, fix, model))

    # -- files -----------------------------------------------------------------------------------------

    def donor_reference(self) -> ModelReference:
        """The model that gives config and tokenizer: the target of the merge, the base, else the first named."""
        named = [source.model for source in self.recipe.sources()]
        if self.method.target_first:
            return next(model for model in named if model != self.recipe.base_model)
        return self.recipe.base_model or named[0]

    @property
    def stem(self) -> str:
        return companions.stem(self.checkpoints[self.donor_reference()])

    def files(self, shards: Sequence[PlannedShard]) -> dict[str, str]:
        """The small files that are written, with their text."""
        reference = self.donor_reference()
        donor = self.checkpoints[reference]
        dtype = companions.main_dtype((tensor.dtype, tensor.bytes) for tensor in self.tensors)
        config = companions.merged_config(donor.config, dtype)
        if not self.recipe.models:
            layout = self.layouts[reference]
            for name, layers in self.layer_sources.items():
                restack(config, layout, layout.modules[name], layers)
        if is_tied(config) and any(OUTPUT_HEAD.search(tensor.name) for tensor in self.tensors):
            # A parent had a head of its own, so the result has one; a tied config would throw it away.
            config["tie_word_embeddings"] = False
        if self.vocabulary:
            companions.set_vocabulary(config, self.vocabulary.own_rows[reference], self.vocabulary.size)
            companions.set_token_ids(config, self.vocabulary.translate)
        files = {"mergekit_config.yml": self.recipe.text}
        if donor.config:
            files["config.json"] = companions.as_json(config)
        if donor.has("generation_config.json"):
            generation = companions.without_traces(donor.read_json("generation_config.json"))
            if self.vocabulary:
                companions.set_token_ids(generation, self.vocabulary.translate)
            files["generation_config.json"] = companions.as_json(generation)
        elif self.stem == "model":
            message = f"{donor.name} has no generation_config.json; the result will have none."
            self.warnings.append(Problem("no-generation-config", message))
        files |= self.tokenizer_texts()
        if len(shards) > 1:
            files[f"{self.stem}.safetensors.index.json"] = companions.index(shards)
        return files

    def tokenizer_reference(self) -> ModelReference:
        """The model whose tokenizer the result's is, or begins with."""
        return self.vocabulary.start.model if self.vocabulary else self.donor_reference()

    def tokenizer_texts(self) -> dict[str, str]:
        """The files of the tokenizer that are written anew, with their text."""
        checkpoint = self.checkpoints[self.tokenizer_reference()]
        written = self.vocabulary.documents(checkpoint) if self.vocabulary else {}
        if "tokenizer_config.json" not in written and checkpoint.has("tokenizer_config.json"):
            written["tokenizer_config.json"] = checkpoint.read_json("tokenizer_config.json")
        template = self.chat_template()
        if template is not None and "tokenizer_config.json" in written:
            written["tokenizer_config.json"].pop("chat_template", None)
        texts = {name: companions.as_json(companions.without_traces(text)) for name, text in written.items()}
        return texts if template is None else {**texts, "chat_template.jinja": template}

    def chat_template(self) -> str | None:
        """The template that the recipe asks for; None leaves the tokenizer its own."""
        wanted = self.recipe.chat_template
        if wanted != "auto":
            return wanted and TEMPLATES.get(wanted, wanted)
        merged = {source.model: None for source in self.recipe.sources()}
        found = [companions.chat_template(self.checkpoints[reference]) for reference in merged]
        count = Counter(template.strip() for template in found if template)
        if not count:
            message = "No model has a chat template, so that `chat_template: auto` finds none."
            self.warnings.append(Problem("no-chat-template", message, "Name one, or write one."))
            return None
        return count.most_common(1)[0][0]

    def copied_files(self, written: Iterable[str]) -> dict[str, int]:
        """The files that are taken over as they are, with the model they come from.

        Args:
            written: names of the files that are written anew
        """
        reference = self.tokenizer_reference()
        checkpoint = self.checkpoints[reference]
        found = tokenizer_files(checkpoint.files)
        if not found and self.stem == "model":
            message = f"{checkpoint.name} has no tokenizer; the result will have none."
            self.warnings.append(Problem("no-tokenizer", message, "Name one with `tokenizer_source:`."))
        left_out = {*written}
        if TOKENIZER in left_out:
            left_out |= {*OTHER_FORMS}
        if "chat_template.jinja" in left_out:
            left_out |= {file for file in found if is_template(file)}
        return {file: self.indices[reference] for file in found if file not in left_out}

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
        if not repository.is_remote or repository.files.get(source.filename) != shard.bytes:
            return shard
        # Tensors in the same places may still stand behind a header that was written another way.
        written = bytearray(len(header))
        with suppress(CheckpointError):
            repository.read_into(source.filename, 0, memoryview(written))
        return replace(shard, copy_of=source) if written == header else shard

    def bytes_in(self) -> int:
        sizes = (
            self.checkpoints_by_index[part.model].bytes_to_read(part.tensor)
            for tensor in self.tensors
            for part in tensor.inputs
        )
        return sum(sizes)

    @property
    def checkpoints_by_index(self) -> list[Checkpoint]:
        return list(self.checkpoints.values())


def _some(found: Sequence[str]) -> str:
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _cut_into_shards(
    tensors: Sequence[PlannedTensor], shard_size: int, stem: str
) -> tuple[PlannedShard, ...]:
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
    for filename, group in zip(companions.shard_names(stem, len(groups)), groups, strict=True):
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

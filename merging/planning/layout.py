"""A plan in the making: which output tensors there are, and of which inputs, with which parameters.

recipe -> runs of layers -> output tensors; and problems wherever something does not fit
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from checkpoints import Alignment, AppliedAdapter, Checkpoint, TensorHeader
from checkpoints.architecture import (
    DERIVED,
    OUTPUT_HEAD,
    Layout,
    Module,
    Stack,
    model_class,
    renamed,
    role_of,
    stands_before_layers,
)
from checkpoints.dtypes import FLOATS, is_known, promote, safetensors_name
from checkpoints.problems import Place, Problem
from checkpoints.wording import few
from merging.intermediate import IntermediateMerge
from merging.methods import MergeMethod, Parameter
from merging.methods.parameters import Scalar
from merging.plan import Input, PlannedAdapter, PlannedModel, PlannedTensor, Value
from merging.planning.config_differences import differences, of_heads
from merging.recipe.gradients import value_at
from merging.recipe.recipe import ModelReference, Parameters, Recipe, Slice, Source
from merging.tokenizers.alignment import align, sizes
from merging.tokenizers.vocabulary import Vocabulary


def _planned_adapter(adapter: AppliedAdapter) -> PlannedAdapter:
    sizes = (header.elements * 4 for header in adapter.tensors.values())
    return PlannedAdapter(
        adapter.name,
        adapter.revision,
        adapter.version,
        adapter.is_folder,
        adapter.scale,
        sum(sizes),
        adapter.is_cached,
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
    where: Place | str
    subtracts: bool

    @property
    def is_at_end(self) -> bool:
        """Whether it begins behind the last layer of every model: then it only chooses norm and head."""
        stacks = (module.stack for module in self.modules)
        return all(stack and start == stack.count for stack, start in zip(stacks, self.starts, strict=True))


class Draft:
    """A plan in the making: collects tensors, and problems wherever something does not fit."""

    def __init__(self, recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]):
        self.recipe = recipe
        self.method: MergeMethod = recipe.method
        self.checkpoints = dict(checkpoints)
        self.intermediates = {r: c for r, c in checkpoints.items() if isinstance(c, IntermediateMerge)}
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
        self.moved: list[str] = []
        # Models whose layers the result has as they are, under the donor's config.
        self.alone: set[ModelReference] = set()
        self.misfits: dict[tuple[str, str], list[str | dict[str, Any]]] = defaultdict(list)

    def models(self) -> tuple[PlannedModel, ...]:
        return tuple(
            PlannedModel(
                reference.name,
                reference.revision,
                checkpoint.version,
                checkpoint.is_folder,
                model_class(checkpoint.config),
                sum(tensor.elements for tensor in checkpoint.tensors.values()),
                sum(tensor.stored_bytes for tensor in checkpoint.tensors.values()),
                self.layouts[reference].layers if reference in self.layouts else 0,
                tuple(map(_planned_adapter, checkpoint.adapters)),
                self.alignments.get(reference),
                made.plan if (made := self.intermediates.get(reference)) else None,
                checkpoint.is_cached,
            )
            for reference, checkpoint in self.checkpoints.items()
        )

    def donor_reference(self) -> ModelReference:
        """The model that gives config and tokenizer: the target of the merge, the base, else the first named."""
        named = [source.model for source in self.recipe.sources()]
        if self.method.target_first:
            return next(model for model in named if model != self.recipe.base_model)
        return self.recipe.base_model or named[0]

    # -- layers ----------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        for reference, checkpoint in self.checkpoints.items():
            self.warnings += checkpoint.warnings
            if made := self.intermediates.get(reference):
                self.warnings += made.plan.warnings
            self.layouts[reference] = Layout(checkpoint.tensors, checkpoint.config)
            self.check_not_quantised(checkpoint)
        aligned = align(self.recipe.tokenizer, self.checkpoints, self.layouts, self.donor_reference())
        self.vocabulary = aligned.vocabulary
        self.alignments = aligned.alignments
        self.checkpoints = aligned.checkpoints
        self.problems += aligned.problems
        self.warnings += aligned.warnings
        if self.problems:
            return
        planned = self.runs()
        for module, runs in planned:
            if not runs:
                self.take_over(module)
                continue
            count = sum(run.length for run in runs)
            self.outside_layers(runs[0], count, before=True)
            for run in runs:
                for number in range(run.length):
                    self.layer(run, number)
            self.outside_layers(runs[-1], count, before=False)
        self.report_misfits()
        self.check_names()
        self.check_settings()
        if not self.tensors and not self.problems:
            self.problems.append(Problem("empty-result"))

    def check_not_quantised(self, checkpoint: Checkpoint) -> None:
        quantisation = checkpoint.config.get("quantization_config")
        unmergeable = [
            t for t in checkpoint.tensors.values() if t.dtype.startswith("F8") or not is_known(t.dtype)
        ]
        if quantisation or unmergeable:
            how = (quantisation or {}).get("quant_method") or unmergeable[0].dtype
            values = {"model": checkpoint.name, "how": how}
            self.problems.append(Problem("quantised", values, checkpoint.name))

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
                names = [module.name for module in modules if module.stack]
                values = {"model": str(self.donor_reference()), "stacks": names}
                self.problems.append(Problem("several-stacks", values, recipe.slices[0].where))
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
                values = {
                    "model": str(self.donor_reference()),
                    "name": part.module,
                    "known": list(donor.modules),
                }
                code = "repeated-module" if module else "unknown-module"
                self.problems.append(Problem(code, values, part.where))
            else:
                named[module.name] = part
        planned: list[tuple[Module, list[_Run]]] = []
        for module in donor.modules.values():
            if module.name not in named:
                values = {"module": module.name, "model": str(self.donor_reference())}
                self.warnings.append(Problem("module-taken-over", values))
                planned.append((module, []))
                continue
            part = named[module.name]
            parts = part.slices or [Slice(recipe.with_base(part.models), where=part.where)]
            planned.append((module, self.runs_of(module, parts, (part.parameters, recipe.parameters))))
        return planned

    def runs_of(self, module: Module, parts: Iterable[Slice], levels: tuple[Parameters, ...]) -> list[_Run]:
        """The runs that fit the models; the others are problems, and what is laid out of the rest shows theirs."""
        runs = [self.run(module, part, (part.parameters, *levels)) for part in parts]
        for run in runs:
            if run and module.stack and run.length == 0 and not (run is runs[-1] and run.is_at_end):
                self.problems.append(Problem("empty-slice", {}, run.where))
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
                values = {
                    "model": str(source.model),
                    "module": module.name,
                    "donor": str(self.donor_reference()),
                }
                self.problems.append(Problem("missing-module", values, source.where))
                continue
            modules.append(own)
            count = own.stack.count if own.stack else 0
            start, end = source.layer_range or (0, count)
            if end > count:
                self.problems.append(
                    Problem(
                        "layer-range",
                        {
                            "model": str(source.model),
                            "layers": count,
                            "last": count - 1,
                            "from": start,
                            "to": end - 1,
                        },
                        source.where,
                    )
                )
                continue
            ranges.append((start, end))
        if len(ranges) < len(sources):
            return None
        lengths = {end - start for start, end in ranges}
        if len(lengths) > 1:
            given = [f"{s.model}: {end - start}" for s, (start, end) in zip(sources, ranges, strict=True)]
            where = part.where or sources[0].where
            self.problems.append(Problem("unequal-layers", {"given": given}, where))
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
        if len(run.sources) == 1:
            self.alone.add(run.sources[0].model)
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

    def outside_layers(self, run: _Run, count: int, *, before: bool) -> None:
        """Plan the tensors before or after the `count` layers; both take the first value of a gradient, as in mergekit.

        What is numbered behind the last layer stays behind the last one.
        """
        named: list[dict[str, str]] = []
        for source, module in zip(run.sources, run.modules, strict=True):
            names = {}
            for name in self.layouts[source.model].names_by_module[module.name]:
                if not (module.stack and module.stack.split(name)) and stands_before_layers(name) == before:
                    names[self.outside_name(name, module.stack, run.module.stack, count)] = name
            named.append(names)
        for name in dict.fromkeys(name for names in named for name in names):
            own = [
                names.get(name) or self.tied(source.model, name)
                for source, names in zip(run.sources, named, strict=True)
            ]
            self.tensor(run, name, own, 0.0, None)

    def outside_name(self, name: str, own: Stack | None, stack: Stack | None, count: int) -> str:
        """What a tensor that belongs to no layer is called in the result."""
        place = own.beyond(name) if own else None
        if not (own and stack and place):
            return renamed(name, own, stack)
        number, rest = place
        if count != own.count:
            self.moved.append(name)
        return stack.join(number - own.count + count, rest)

    def take_over(self, module: Module) -> None:
        """Plan the tensors of a module as the donor has them."""
        donor = self.donor_reference()
        for name in self.layouts[donor].names_by_module[module.name]:
            header = self.checkpoints[donor].tensors[name]
            place = module.stack.split(name) if module.stack else None
            inputs = (Input(self.indices[donor], name),)
            self.taken(name, header, inputs, self.output_dtype({header.stored_dtype}), place and place[0])

    def tied(self, reference: ModelReference, name: str) -> str | None:
        """The tensor of a model that stands for a head which it does not have."""
        # Rows for tokens of other models come from their heads, so that an aligned head is no longer the embedding.
        return name if name in self.checkpoints[reference].tensors else self.layouts[reference].tied(name)

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
                self.misfits[code, str(source.model)].append(
                    {
                        "phrase": "shape-instead",
                        "name": name,
                        "found": list(header.shape),
                        "expected": list(headers[0].shape),
                    }
                )
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
                    {"phrase": "several-dtypes", "name": name, "dtypes": sorted(stored)}
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
            if not any(problem.code == "roles" for problem in self.problems):
                values = {"first": str(lead), "second": str(follower), "base": str(run.sources[0].model)}
                self.problems.append(Problem("roles", values, run.sources[2].where))
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
            # Once for each slice: along a gradient every layer has numbers of its own.
            if not any(p.code == "parameters" and p.where == run.where for p in self.problems):
                names = [parameter.name for parameter in self.method.parameters if parameter.per_model]
                said = {"method": self.method.name, "title": self.method.title, "tensor": name}
                self.problems.append(
                    Problem("parameters", {**said, "wrong": wrong, "parameters": names}, run.where)
                )
            return None
        return values

    def value(
        self,
        parameter: Parameter,
        levels: Iterable[Parameters],
        name: str,
        position: float,
        where: Place | str,
    ) -> Scalar | None:
        if parameter.roles and role_of(name) not in parameter.roles:
            return True
        for level in levels:
            if parameter.name in level:
                value = value_at(level[parameter.name], name, position)
                if value is not None:
                    return parameter.convert(value)
        reported = any(p.code == "no-filter-matches" and p.where == where for p in self.problems)
        if parameter.required and not reported:
            values = {"parameter": parameter.name, "tensor": name}
            self.problems.append(Problem("no-filter-matches", values, where))
        return parameter.default

    def check_names(self) -> None:
        """Two tensors of one name make a file that no loader reads."""
        counts = Counter(tensor.name for tensor in self.tensors)
        if twice := [name for name, count in counts.items() if count > 1]:
            self.problems.append(Problem("duplicate-tensor", {"tensors": few(twice)}, twice[0]))
        if self.moved:
            values = {"tensors": few(self.moved), "count": len(self.moved)}
            self.warnings.append(Problem("moved-tensor", values))

    def check_settings(self) -> None:
        """Weights that were trained under other settings than the result's config has compute something else there."""
        donor = self.donor_reference()
        for reference, checkpoint in self.checkpoints.items():
            found = differences(self.checkpoints[donor].config, checkpoint.config)
            if not found:
                continue
            settings = [f"{key}: {ours} and {theirs}" for key, (ours, theirs) in sorted(found.items())]
            values = {"model": str(reference), "donor": str(donor), "settings": settings}
            if of_heads(found) and reference in self.alone:
                self.problems.append(Problem("other-heads", values, str(reference)))
            else:
                self.warnings.append(Problem("settings-differ", values, str(reference)))

    def report_misfits(self) -> None:
        if self.derived:
            self.warnings.append(Problem("derived-tensor", {"tensors": few(self.derived)}))
        for (code, model), found in self.misfits.items():
            values: dict[str, Any] = {
                "model": model,
                "tensors": few(found),
                "donor": str(self.donor_reference()),
            }
            if code == "vocabulary":
                values["tokenizers"] = sizes(self.checkpoints, self.layouts)
            self.problems.append(Problem(code, values, model))

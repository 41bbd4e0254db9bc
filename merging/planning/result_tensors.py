"""The tensors of a result: which there are, of which inputs, with which parameters, and what does not fit.

recipe -> runs of layers -> tensors
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

from checkpoints import Checkpoint, TensorHeader
from checkpoints.architecture import (
    COPY_OF_BIAS,
    DERIVED,
    OUTPUT_HEAD,
    Layout,
    Module,
    Stack,
    is_packed,
    renamed,
    says_tied,
    stands_before_layers,
)
from checkpoints.dtypes import FLOATS, is_known, promote, safetensors_name
from checkpoints.formats.header import MAX_TENSORS
from checkpoints.problems import Problem
from checkpoints.wording import few
from merging.methods import MergeMethod
from merging.plan import Input, PlannedModel, PlannedTensor
from merging.planning.config_differences import differences, of_heads
from merging.planning.parameter_values import ParameterValues
from merging.planning.parents import Parents
from merging.planning.runs import Run, Runs
from merging.planning.spares import is_apart, is_spare
from merging.recipe.recipe import ModelReference, Recipe
from merging.tokenizers.alignment import align, sizes
from merging.tokenizers.transplant import Transplant
from merging.tokenizers.vocabulary import Vocabulary

# Names of the inputs of a tensor, in the order of a run's sources; None for a model that has no such tensor.
Names = Sequence[str | None]


class _Merged(NamedTuple):
    """What a merged tensor is made of, apart from parameters.

    Args:
        run, name, position, layer: see `ResultTensors.tensor`
        headers, inputs: of each model
        dtype: of the result
    """

    run: Run
    name: str
    headers: Sequence[TensorHeader]
    inputs: tuple[Input, ...]
    dtype: str
    position: float
    layer: int | None


def _taken(
    name: str, header: TensorHeader, inputs: tuple[Input, ...], dtype: str, layer: int | None
) -> PlannedTensor:
    """A tensor that is one model's, rounded if another dtype is wanted."""
    copied = 0 if header.dtype == dtype else None
    return PlannedTensor(name, dtype, header.shape, inputs, {}, copied, layer)


class ResultTensors:
    """Collects the tensors of a result, and problems where something does not fit.

    Args:
        recipe: what is wanted
        checkpoints: the models that it names, open

    Attributes:
        tensors: once they are laid out, in the order of the model
        layer_sources: for each module that is built from layers, where these come from
        vocabulary: of the result; None where it stays the models' own
        transplant: that approximated rows; None where the recipe asks for none
    """

    def __init__(self, recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]):
        self.recipe = recipe
        self.method: MergeMethod = recipe.method
        self.parents = Parents(recipe, checkpoints)
        self.vocabulary: Vocabulary | None = None
        self.transplant: Transplant | None = None
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.values = ParameterValues(self.method, self.problems)
        self.runs: list[Run] = []
        self.tensors: list[PlannedTensor] = []
        # What decides those that follow from parameters, by their place among the tensors.
        self.by_parameters: dict[int, _Merged] = {}
        # Those that repeat another one under their own name, by place; with the other's.
        self.parted: dict[int, int] = {}
        self.layer_sources: dict[str, list[tuple[Layout, int]]] = defaultdict(list)
        self.counts: dict[str, int] = {}  # of layers, by module
        self.derived: list[str] = []
        self.moved: list[str] = []
        self.taken_over: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
        # Models whose layers the result has as they are, under the donor's config.
        self.alone: set[ModelReference] = set()
        self.misfits: dict[tuple[str, str], list[str | dict[str, Any]]] = defaultdict(list)

    # -- the whole -------------------------------------------------------------------------------------

    def planned(self) -> tuple[PlannedModel, ...]:
        """What the plan says of the models."""
        return self.parents.planned()

    def opened(self) -> list[Checkpoint]:
        """The models of the plan, in its order."""
        return list(self.parents.checkpoints.values())

    def check_checkpoints(self) -> None:
        for reference, checkpoint in self.parents.checkpoints.items():
            self.warnings += checkpoint.warnings
            if made := self.parents.intermediates.get(reference):
                self.warnings += made.plan.warnings
            self.check_not_quantized(checkpoint)

    def lay_out(self) -> None:
        self.check_checkpoints()
        self.align_vocabularies()
        if self.problems:
            return
        for module, runs in Runs(self.parents, self.problems, self.warnings).find():
            self.runs += runs
            if not runs:
                self.copy_module(module)
                continue
            count = self.counts[module.name] = sum(run.length for run in runs)
            self.outside_layers(runs[0], count, before=True)
            for run in runs:
                for number in range(run.length):
                    self.layer(run, number)
                if self.is_too_large():
                    return
            self.outside_layers(runs[-1], count, before=False)
        self.part_bias_of_head()
        self.report_misfits()
        self.check_names()
        self.check_settings()
        if not self.tensors and not self.problems:
            self.problems.append(Problem("empty-result"))

    def is_too_large(self) -> bool:
        """Whether there are more tensors so far than a model can have, which becomes a problem."""
        if len(self.tensors) <= MAX_TENSORS:
            return False
        self.problems.append(Problem("large-result", {"most": MAX_TENSORS}))
        return True

    def part_bias_of_head(self) -> None:
        """Give a head that a tied model did not have its own bias, too: loaders tie both or neither."""
        planned = {tensor.name: place for place, tensor in enumerate(self.tensors)}
        if not says_tied(self.parents.checkpoints[self.parents.donor].config):
            return
        for name in filter(OUTPUT_HEAD.search, list(planned)):
            own = f"{name.removesuffix('.weight')}.bias"
            shared = planned.get(COPY_OF_BIAS.sub(r"\1.bias", own))
            if own not in planned and shared is not None:
                self.parted[len(self.tensors)] = shared
                self.tensors.append(replace(self.tensors[shared], name=own))

    def differs_by_parameters(self, recipe: Recipe) -> bool:
        """Whether a recipe differs from this one in nothing but parameters, and these decide nothing but values."""
        if recipe.mixture or self.method.target_first:
            return False
        return recipe.without_parameters() == self.recipe.without_parameters()

    def again(self, recipe: Recipe) -> ResultTensors:
        """The tensors of a recipe, laid out, which differs in nothing but parameters; only these are looked at.

        Args:
            recipe: another one with the same `without_parameters`
        """
        found = copy(self)
        found.recipe = recipe
        found.parents = self.parents.of(recipe)
        found.problems, found.warnings, found.tensors = [], [], [*self.tensors]
        found.values = ParameterValues(self.method, found.problems)
        runs = dict(zip(map(id, self.runs), found.find_runs(), strict=True))
        for place, merged in self.by_parameters.items():
            if tensor := found.resolved(merged._replace(run=runs[id(merged.run)])):
                found.tensors[place] = tensor
        for place, shared in self.parted.items():
            found.tensors[place] = replace(found.tensors[shared], name=self.tensors[place].name)
        return found

    def find_runs(self) -> list[Run]:
        """The runs of layers of all modules, in order."""
        return [run for _, runs in Runs(self.parents, self.problems, self.warnings).find() for run in runs]

    def align_vocabularies(self) -> None:
        parents = self.parents
        aligned = align(
            self.recipe.tokenizer, parents.checkpoints, parents.layouts, parents.donor, self.recipe.merged()
        )
        self.vocabulary = aligned.vocabulary
        self.transplant = aligned.transplant
        parents.alignments = aligned.alignments
        parents.checkpoints = aligned.checkpoints
        self.problems += aligned.problems
        self.warnings += aligned.warnings

    def check_not_quantized(self, checkpoint: Checkpoint) -> None:
        """The tensors decide: a config often keeps what it said of the model that the weights were unpacked from."""
        said = checkpoint.config.get("quantization_config")
        packed = [
            tensor.dtype
            for name, tensor in checkpoint.tensors.items()
            if tensor.dtype.startswith("F8")
            or not is_known(tensor.dtype)
            or is_packed(name, tensor, is_said=bool(said))
        ]
        if not (said or packed):
            return
        how = said.get("quant_method") if isinstance(said, dict) else None
        values = {"model": checkpoint.name, "how": str(how or (packed or ["?"])[0])}
        if packed:
            self.problems.append(Problem("quantized", values, checkpoint.name))
        else:
            self.warnings.append(Problem("plain-weights", values, checkpoint.name))

    # -- layers ----------------------------------------------------------------------------------------

    def layer(self, run: Run, number: int) -> None:
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
            names = self.parents.layer_names(source.model, module).get(start + number, [])
            named.append({name[len(prefix) :]: name for name in names})
        if len(run.sources) == 1:
            self.alone.add(run.sources[0].model)
        first = int(self.method.target_first)
        layers.append((self.parents.layouts[run.sources[first].model], run.starts[first] + number))
        assert run.module.stack
        for rest in dict.fromkeys(rest for names in named for rest in names):
            name = run.module.stack.join(output, rest)
            self.tensor(run, name, [names.get(rest) for names in named], position, output)

    def outside_layers(self, run: Run, count: int, *, before: bool) -> None:
        """Plan the tensors before or after the `count` layers; both take the first value of a gradient, as in mergekit.

        What is numbered behind the last layer stays behind the last one.
        """
        named = [
            self.names_outside(source.model, module, run, count)
            for source, module in zip(run.sources, run.modules, strict=True)
        ]
        wanted = [
            name
            for name in dict.fromkeys(name for names in named for name in names)
            if stands_before_layers(name) == before
        ]
        found = [
            self.found_outside(source.model, names, wanted)
            for source, names in zip(run.sources, named, strict=True)
        ]
        for name in wanted:
            own = [names.get(name) for names in found]
            if None in own and not DERIVED.search(name) and self.is_spare(run, name, named, own):
                self.take_over(run, name, own)
            else:
                self.tensor(run, name, own, 0.0, None)

    def found_outside(
        self, model: ModelReference, names: Mapping[str, str], wanted: Sequence[str]
    ) -> Mapping[str, str]:
        """What a model has for each of these tensors: its own, or the one that it ties to another."""
        found = {name: own for name in wanted if (own := names.get(name) or self.parents.tied(model, name))}
        lacking = [
            name
            for name in wanted
            if name not in found and not DERIVED.search(name) and not is_apart(name, names)
        ]
        return {**self.parents.tied_by_class(model, lacking), **found} if lacking else found

    def names_outside(self, model: ModelReference, module: Module, run: Run, count: int) -> dict[str, str]:
        """The tensors of a model that belong to no layer: by their name in the result, their own."""
        return {
            self.outside_name(name, module.stack, run.module.stack, count): name
            for name in self.parents.outside_names(model, module)
        }

    def is_spare(self, run: Run, name: str, named: Sequence[Mapping[str, str]], own: Names) -> bool:
        """Whether all models of a run that lack a tensor work without it."""
        stack = run.module.stack
        layers = [stack.prefix] if stack else []
        having = next(at for at, found in enumerate(own) if found)
        embedding = self.parents.layouts[run.sources[having].model].embedding
        table = next((result for result, other in named[having].items() if other == embedding), None)
        return all(
            is_spare(
                name, [*named[having], *layers], [*named[at], *layers], table, has_layers=stack is not None
            )
            for at, found in enumerate(own)
            if found is None
        )

    def take_over(self, run: Run, name: str, own: Names) -> None:
        """Plan a tensor that some models lack as another has it: the donor, if it can."""
        pairs = list(zip(run.sources, own, strict=True))
        having = [(source.model, found) for source, found in pairs if found]
        model, found = next((pair for pair in having if pair[0] == self.parents.donor), having[0])
        header = self.parents.checkpoints[model].tensors[found]
        inputs = (Input(self.parents.indices[model], found),)
        self.taken(name, header, inputs, self.output_dtype({header.stored_dtype}), None)
        lacking = tuple(dict.fromkeys(str(source.model) for source, found in pairs if not found))
        self.taken_over[str(model), lacking].append(name)

    def outside_name(self, name: str, own: Stack | None, stack: Stack | None, count: int) -> str:
        """What a tensor that belongs to no layer is called in the result."""
        place = own.beyond(name) if own else None
        if not (own and stack and place):
            return renamed(name, own, stack)
        number, rest = place
        if count != own.count:
            self.moved.append(name)
        return stack.join(number - own.count + count, rest)

    def copy_module(self, module: Module) -> None:
        """Plan the tensors of a module as the donor has them."""
        donor = self.parents.donor
        for name in self.parents.layouts[donor].names_by_module[module.name]:
            header = self.parents.checkpoints[donor].tensors[name]
            place = module.stack.split(name) if module.stack else None
            inputs = (Input(self.parents.indices[donor], name),)
            self.taken(name, header, inputs, self.output_dtype({header.stored_dtype}), place and place[0])

    # -- tensors ---------------------------------------------------------------------------------------

    def tensor(self, run: Run, name: str, names: Names, position: float, layer: int | None) -> None:
        """Plan one tensor, or note why it cannot be.

        Args:
            run: that it belongs to
            name: of the result's tensor
            names: of its inputs
            position: in the run, from 0 to 1, for gradients
            layer: of the result; None outside the layers
        """
        if None in names and DERIVED.search(name):
            self.derived.append(name)
            return
        if self.method.target_first and self.left_alone(run, name, names, position, layer):
            return
        headers = self.headers(run, name, names)
        if headers is None:
            return
        self.check_shapes(run, name, headers)
        if self.is_unexpected(run, name, headers[0].shape, layer):
            self.misfits["unexpected-keys", str(run.sources[0].model)].append(
                f"{name} {list(headers[0].shape)}"
            )
            return
        stored = {header.stored_dtype for header in headers}
        if stored <= set(FLOATS):
            self.merged(run, name, headers, position, layer)
        else:
            self.same_everywhere(run, name, headers, stored, layer)

    def headers(self, run: Run, name: str, names: Names) -> list[TensorHeader] | None:
        """The headers of a tensor's inputs; None if a model lacks its own."""
        headers = []
        for source, own in zip(run.sources, names, strict=True):
            if own is None:
                self.misfits["missing-keys", str(source.model)].append(name)
            else:
                headers.append(self.parents.checkpoints[source.model].tensors[own])
        return headers if len(headers) == len(names) else None

    def check_shapes(self, run: Run, name: str, headers: Sequence[TensorHeader]) -> None:
        first = headers[0].shape
        for source, header in zip(run.sources, headers, strict=True):
            if header.shape == first:
                continue
            by_token = stands_before_layers(name) or OUTPUT_HEAD.search(name)
            code = "vocabulary" if by_token and header.shape[1:] == first[1:] else "shape"
            found, expected = list(header.shape), list(first)
            self.misfits[code, str(source.model)].append(
                {"phrase": "shape-instead", "name": name, "found": found, "expected": expected}
            )

    def same_everywhere(
        self, run: Run, name: str, headers: Sequence[TensorHeader], stored: set[str], layer: int | None
    ) -> None:
        """Plan a counter or mask: not averaged; the run makes sure that all models have the same."""
        if len(stored) > 1:
            self.misfits["shape", str(run.sources[1].model)].append(
                {"phrase": "several-dtypes", "name": name, "dtypes": sorted(stored)}
            )
        first, inputs = headers[0], self.inputs(run, headers)
        self.tensors.append(PlannedTensor(name, first.dtype, first.shape, inputs, {}, 0, layer))

    def merged(
        self, run: Run, name: str, headers: Sequence[TensorHeader], position: float, layer: int | None
    ) -> None:
        """Plan a tensor of floats."""
        dtype = self.output_dtype({header.stored_dtype for header in headers})
        inputs = self.inputs(run, headers)
        merged = _Merged(run, name, headers, inputs, dtype, position, layer)
        if tensor := self.resolved(merged):
            self.by_parameters[len(self.tensors)] = merged
            self.tensors.append(tensor)

    def resolved(self, merged: _Merged) -> PlannedTensor | None:
        """A tensor with its parameters; one whose parameters leave a single model is that model's. None if there is a
        problem."""
        run, name, headers, inputs, dtype, position, layer = merged
        values = self.values.of(run, name, [header.name for header in headers], position)
        if values is None:
            return None
        decided = self.method.decided_by(self.values.arguments(values))
        if decided is not None:
            decided += run.subtracts
            return _taken(name, headers[decided], inputs[decided : decided + 1], dtype, layer)
        return PlannedTensor(name, dtype, headers[0].shape, inputs, values, None, layer)

    def inputs(self, run: Run, headers: Sequence[TensorHeader]) -> tuple[Input, ...]:
        pairs = zip(run.sources, headers, strict=True)
        return tuple(Input(self.parents.indices[source.model], header.name) for source, header in pairs)

    def taken(
        self, name: str, header: TensorHeader, inputs: tuple[Input, ...], dtype: str, layer: int | None
    ) -> None:
        """Plan a tensor that is one model's, rounded if another dtype is wanted."""
        self.tensors.append(_taken(name, header, inputs, dtype, layer))

    def output_dtype(self, stored: set[str]) -> str:
        wanted = self.recipe.plain_dtype
        if not stored <= set(FLOATS):
            [dtype] = stored
            return dtype
        return safetensors_name(wanted) if wanted else promote(stored)

    def is_unexpected(self, run: Run, name: str, shape: tuple[int, ...], layer: int | None) -> bool:
        """Whether the model that gives the config has no tensor like this one, so that loaders would not take it."""
        donor = self.parents.donor
        if any(source.model == donor for source in run.sources) or OUTPUT_HEAD.search(name):
            return False
        if layer is None or run.module.stack is None:
            header = self.parents.checkpoints[donor].tensors.get(self.donors_name(run, name))
            return header is None or header.shape != shape
        rest = name[len(run.module.stack.join(layer, "")) :]
        return shape not in self.parents.shapes_in_layers(run.module)[rest]

    def donors_name(self, run: Run, name: str) -> str:
        """What a tensor outside the layers of the result is called in the model that gives the config."""
        stack = run.module.stack
        if stack is None or (place := stack.beyond(name)) is None:
            return name
        number, rest = place
        return stack.join(number - self.counts[run.module.name] + stack.count, rest)

    def left_alone(
        self, run: Run, name: str, names: Sequence[str | None], position: float, layer: int | None
    ) -> bool:
        """Plan a tensor that the target has as the result will; no other model need have it, or in that shape."""
        base, target, other = (
            self.parents.checkpoints[source.model].tensors.get(own or "")
            for source, own in zip(run.sources, names, strict=True)
        )
        values = self.values.of(run, name, [own or name for own in names], position)
        if target is None or values is None or self.method.decided_by(self.values.arguments(values)) != 0:
            return False
        if base and other and base.shape != other.shape:
            lead, follower = run.sources[1].model, run.sources[2].model
            if not any(problem.code == "roles" for problem in self.problems):
                values = {"first": str(lead), "second": str(follower), "base": str(run.sources[0].model)}
                self.problems.append(Problem("roles", values, run.sources[2].where))
        inputs = (Input(self.parents.indices[run.sources[1].model], target.name),)
        self.taken(name, target, inputs, self.output_dtype({target.stored_dtype}), layer)
        return True

    # -- checks ----------------------------------------------------------------------------------------

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
        donor = self.parents.donor
        merged = self.recipe.merged()
        for reference, checkpoint in self.parents.checkpoints.items():
            if self.transplant and reference not in merged:
                continue  # it gives no numbers
            found = differences(self.parents.checkpoints[donor].config, checkpoint.config)
            if not found:
                continue
            settings = [f"{key}: {ours} and {theirs}" for key, (ours, theirs) in sorted(found.items())]
            values = {"model": str(reference), "donor": str(donor), "settings": settings}
            if of_heads(found) and reference in self.alone:
                self.problems.append(Problem("other-heads", values, str(reference)))
            else:
                self.warnings.append(Problem("settings-differ", values, str(reference)))

    def report_misfits(self) -> None:
        values: dict[str, Any]
        if self.derived:
            self.warnings.append(Problem("derived-tensor", {"tensors": few(self.derived)}))
        for (having, lacking), names in self.taken_over.items():
            values = {"tensors": few(names), "model": having, "lacking": list(lacking)}
            self.warnings.append(Problem("taken-over-tensor", values))
        for (code, model), found in self.misfits.items():
            values = {"model": model, "tensors": few(found), "donor": str(self.parents.donor)}
            if code == "vocabulary":
                values["tokenizers"] = sizes(self.parents.checkpoints, self.parents.layouts)
            self.problems.append(Problem(code, values, model))

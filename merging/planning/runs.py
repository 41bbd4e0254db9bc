"""Which layers of which models each module of a result is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from checkpoints.architecture import Layout, Module
from checkpoints.problems import Place, Problem
from merging.planning.parents import Parents
from merging.recipe.recipe import Parameters, Recipe, Slice, Source

# Layers of a stack that is put together. The deepest models have some hundred.
MAX_LAYERS = 1000


@dataclass(frozen=True)
class Run:
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


class Runs:
    """Finds the runs of layers that a recipe asks for, and what of them the models do not have.

    Args:
        parents: the models
        problems, warnings: that are added to
    """

    def __init__(self, parents: Parents, problems: list[Problem], warnings: list[Problem]):
        self.parents = parents
        self.recipe: Recipe = parents.recipe
        self.method = self.recipe.method
        self.problems = problems
        self.warnings = warnings

    def find(self) -> list[tuple[Module, list[Run]]]:
        """The runs of layers that each module of the output is made of; none: it is copied from the donor."""
        recipe = self.recipe
        donor = self.parents.layouts[self.parents.donor]
        modules = donor.modules.values()
        common = (recipe.parameters,)
        if recipe.models:
            part = Slice(recipe.with_base(recipe.models))
            planned = [(module, self.runs_of(module, [part], common)) for module in modules]
        elif recipe.slices:
            if donor.main.is_one_of_equals and len(donor.modules) > 1:
                names = [module.name for module in modules if module.stack]
                values = {"model": str(self.parents.donor), "stacks": names}
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

    def runs_by_module(self, donor: Layout) -> list[tuple[Module, list[Run]]]:
        recipe = self.recipe
        named = {}
        for part in recipe.modules:
            module = donor.find(part.module)
            if module is None or module.name in named:
                values = {
                    "model": str(self.parents.donor),
                    "name": part.module,
                    "known": list(donor.modules),
                }
                code = "repeated-module" if module else "unknown-module"
                self.problems.append(Problem(code, values, part.where))
            else:
                named[module.name] = part
        planned: list[tuple[Module, list[Run]]] = []
        for module in donor.modules.values():
            if module.name not in named:
                values = {"module": module.name, "model": str(self.parents.donor)}
                self.warnings.append(Problem("module-taken-over", values))
                planned.append((module, []))
                continue
            part = named[module.name]
            parts = part.slices or [Slice(recipe.with_base(part.models), where=part.where)]
            planned.append((module, self.runs_of(module, parts, (part.parameters, recipe.parameters))))
        return planned

    def runs_of(self, module: Module, parts: Iterable[Slice], levels: tuple[Parameters, ...]) -> list[Run]:
        """The runs that fit the models; the others are problems, and what is laid out of the rest shows theirs."""
        runs = [self.run(module, part, (part.parameters, *levels)) for part in parts]
        has_layers = any(run and run.length for run in runs)
        for run in runs:
            # The last slice may be empty, as in mergekit: it chooses norm and head.
            if run and module.stack and run.length == 0 and not (run is runs[-1] and has_layers):
                self.problems.append(Problem("empty-slice", {}, run.where))
        count = sum(run.length for run in runs if run)
        if count > MAX_LAYERS and not self.recipe.models:
            self.problems.append(Problem("too-many-layers", {"count": count, "most": MAX_LAYERS}))
            return []
        return [run for run in runs if run]

    def run(self, module: Module, part: Slice, levels: tuple[Parameters, ...]) -> Run | None:
        sources, subtracts = self.in_order(part)
        found = [self.layers_of(source, module) for source in sources]
        places = [place for place in found if place]
        if len(places) < len(sources):
            return None
        lengths = {end - start for _, start, end in places}
        if len(lengths) > 1:
            given = [f"{s.model}: {end - start}" for s, (_, start, end) in zip(sources, places, strict=True)]
            self.problems.append(Problem("unequal-layers", {"given": given}, part.where or sources[0].where))
            return None
        modules = tuple(own for own, _, _ in places)
        starts = tuple(start for _, start, _ in places)
        return Run(module, sources, modules, starts, lengths.pop(), levels, part.where, subtracts)

    def in_order(self, part: Slice) -> tuple[tuple[Source, ...], bool]:
        """The sources in the method's order, and whether the first of them is a base that is subtracted."""
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
        return tuple(sources), subtracts

    def layers_of(self, source: Source, module: Module) -> tuple[Module, int, int] | None:
        """The module of a source, and the first and last of its layers (the last not included)."""
        own = self.parents.counterpart(source.model, module)
        if own is None or (own.stack is None) != (module.stack is None):
            values = {"model": str(source.model), "module": module.name, "donor": str(self.parents.donor)}
            self.problems.append(Problem("missing-module", values, source.where))
            return None
        count = own.stack.count if own.stack else 0
        start, end = source.layer_range or (0, count)
        if end > count:
            layers = {"layers": count, "last": count - 1, "from": start, "to": end - 1}
            self.problems.append(Problem("layer-range", {"model": str(source.model), **layers}, source.where))
            return None
        return own, start, end

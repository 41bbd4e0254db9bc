"""The models of a recipe, open, and how they are built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property

from checkpoints import AlignedCheckpoint, Alignment, AppliedAdapter, Checkpoint
from checkpoints.architecture import Layout, Module, model_class
from checkpoints.loading import load
from checkpoints.quantized.dequantized import quantized_bytes
from checkpoints.renamed import Assembled, RenamedCheckpoint, in_names_of
from merging.intermediate import IntermediateMerge
from merging.plan import PlannedAdapter, PlannedModel
from merging.recipe.recipe import ModelReference, Recipe


class Parents:
    """The models that a recipe names.

    Args:
        recipe: it
        checkpoints: the models, open

    Attributes:
        donor: the model that gives config and tokenizer: the target of the merge, the base, else the first named
        layouts: how each is built
        indices: their numbers in the plan
        alignments: of those whose rows change, once the vocabularies are aligned
    """

    def __init__(self, recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]):
        self.recipe = recipe
        self.checkpoints: dict[ModelReference, Checkpoint] = dict(checkpoints)
        self.renamed = self._rename()
        self.intermediates = {r: c for r, c in checkpoints.items() if isinstance(c, IntermediateMerge)}
        self.indices = {reference: index for index, reference in enumerate(checkpoints)}
        self.layouts = {r: Layout(c.tensors, c.config) for r, c in self.checkpoints.items()}
        self.alignments: dict[ModelReference, Alignment] = {}
        self._names: dict[tuple[ModelReference, str], tuple[Mapping[int, list[str]], list[str]]] = {}
        self._shapes_in_layers: dict[str, Mapping[str, set[tuple[int, ...]]]] = {}

    @cached_property
    def donor(self) -> ModelReference:
        named = [source.model for source in self.recipe.sources()]
        if self.recipe.method.target_first:
            return next(model for model in named if model != self.recipe.base_model)
        return self.recipe.base_model or named[0]

    def _rename(self) -> dict[ModelReference, Mapping[str, Assembled]]:
        """Give the models of the donor's class its names, where other releases wrote their files."""
        found: dict[ModelReference, Mapping[str, Assembled]] = {}
        donor = self.checkpoints.get(self.donor)
        for reference, checkpoint in [*self.checkpoints.items()]:
            if donor and checkpoint != donor and (renamed := in_names_of(checkpoint, donor)):
                found[reference] = renamed
                self.checkpoints[reference] = RenamedCheckpoint(checkpoint, renamed)
        return found

    def of(self, recipe: Recipe) -> Parents:
        """The same for a recipe that differs in nothing but parameters."""
        found = copy(self)
        found.recipe = recipe
        return found

    def planned(self) -> tuple[PlannedModel, ...]:
        """What the plan says of each."""
        return tuple(
            PlannedModel(
                reference.name,
                reference.revision,
                checkpoint.version,
                checkpoint.is_folder,
                model_class(checkpoint.config),
                sum(tensor.elements for tensor in checkpoint.tensors.values()),
                sum(tensor.stored_bytes for tensor in checkpoint.tensors.values()),
                self.layouts[reference].layers,
                tuple(map(_planned_adapter, checkpoint.adapters)),
                self.alignments.get(reference),
                made.plan if (made := self.intermediates.get(reference)) else None,
                checkpoint.is_cached,
                self.renamed.get(reference, {}),
                quantized_bytes(self.checkpoints[reference]),
                approximating=checkpoint.approximating if isinstance(checkpoint, AlignedCheckpoint) else None,
            )
            for reference, checkpoint in self.checkpoints.items()
        )

    def counterpart(self, reference: ModelReference, module: Module) -> Module | None:
        """The module of a model that is merged into a module of the donor."""
        layout = self.layouts[reference]
        if module == self.layouts[self.donor].main:
            return layout.modules.get(module.name, layout.main)
        return layout.find(module.name)

    def layer_names(self, reference: ModelReference, module: Module) -> Mapping[int, list[str]]:
        """The names of a model's tensors, by layer of a module."""
        return self._divided(reference, module)[0]

    def outside_names(self, reference: ModelReference, module: Module) -> Sequence[str]:
        """The names of a model's tensors that belong to no layer of a module."""
        return self._divided(reference, module)[1]

    def _divided(
        self, reference: ModelReference, module: Module
    ) -> tuple[Mapping[int, list[str]], list[str]]:
        key = reference, module.name
        if key not in self._names:
            by_layer: dict[int, list[str]] = defaultdict(list)
            outside: list[str] = []
            for name in self.layouts[reference].names_by_module[module.name]:
                place = module.stack.split(name) if module.stack else None
                (by_layer[place[0]] if place else outside).append(name)
            self._names[key] = by_layer, outside
        return self._names[key]

    def shapes_in_layers(self, module: Module) -> Mapping[str, set[tuple[int, ...]]]:
        """The shapes that the donor's layers have, by the part of the name after the layer's number."""
        if module.name not in self._shapes_in_layers:
            found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
            donor = self.donor
            for layer, names in self.layer_names(donor, module).items():
                assert module.stack
                prefix = module.stack.join(layer, "")
                for name in names:
                    found[name[len(prefix) :]].add(self.checkpoints[donor].tensors[name].shape)
            self._shapes_in_layers[module.name] = found
        return self._shapes_in_layers[module.name]

    def tied(self, reference: ModelReference, name: str) -> str | None:
        """The name of a head in a model; the embedding's where it has none and they are tied; None otherwise."""
        # Rows for tokens of other models come from their heads, so that an aligned head is no longer the embedding.
        return name if name in self.checkpoints[reference].tensors else self.layouts[reference].tied(name)

    def tied_by_class(self, reference: ModelReference, names: Sequence[str]) -> dict[str, str]:
        """The tensors of a model that its class ties others to, by the names of these others."""
        checkpoint = self.checkpoints[reference]
        shapes = {name: header.shape for name, header in checkpoint.tensors.items()}
        loading = load(checkpoint.config, shapes, names)
        return loading.tied_names(names) if loading else {}


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

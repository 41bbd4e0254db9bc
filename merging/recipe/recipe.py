"""A recipe: everything that determines a merge, in mergekit's YAML, read into frozen, checked types.

    merge_method: slerp
    base_model: org/first
    models:
      - model: org/first
      - model: org/second@v1.0
    parameters:
      t: [0, 0.5, 1]
    dtype: bfloat16

Several documents, separated by `---`, are a chain: others can use the `name:` of a document as a model.

`merging.recipe.reader` reads a recipe from text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from checkpoints.approximation import Rule
from checkpoints.problems import Place, Problem
from merging.fp8 import FP8
from merging.methods import METHODS, MergeMethod
from merging.recipe.gradients import ParameterSetting
from merging.recipe.mixture import Mixture

Parameters = Mapping[str, ParameterSetting]


@dataclass(frozen=True)
class AdapterReference:
    """An adapter: a folder or an id on the Hub, and the factor on its change."""

    name: str
    revision: str | None = None
    scale: float = 1.0

    def __str__(self) -> str:
        scale = "" if self.scale == 1 else f" (scale {self.scale:g})"
        return (f"{self.name}@{self.revision}" if self.revision else self.name) + scale


@dataclass(frozen=True)
class ModelReference:
    """A model: a folder or an id on the Hub, at a revision if one is given, with adapters applied in order.

    `architecture` overrides the class in the result's config, if the config comes from this model.
    """

    name: str
    revision: str | None = None
    adapters: tuple[AdapterReference, ...] = ()
    architecture: str | None = None

    def __str__(self) -> str:
        name = f"{self.name}@{self.revision}" if self.revision else self.name
        return "+".join([name, *map(str, self.adapters)])


@dataclass(frozen=True)
class Source:
    """A model to merge, with its layers (None: all) and its own parameters.

    `where` is its place in the recipe's text, which does not count in comparisons.
    """

    model: ModelReference
    layer_range: tuple[int, int] | None = None
    parameters: Parameters = field(default_factory=dict)
    where: Place | str = field(default="", compare=False)


@dataclass(frozen=True)
class Slice:
    """A run of output layers, made from the same number of layers of each source."""

    sources: tuple[Source, ...]
    base_model: ModelReference | None = None
    parameters: Parameters = field(default_factory=dict)
    where: Place | str = field(default="", compare=False)

    def without_parameters(self) -> Slice:
        sources = tuple(replace(source, parameters={}) for source in self.sources)
        return replace(self, sources=sources, parameters={})


@dataclass(frozen=True)
class ModulePart:
    """What one module of a model (a vision tower, an encoder) is made of; one of `models` and `slices` is not empty."""

    module: str
    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: Parameters = field(default_factory=dict)
    where: Place | str = field(default="", compare=False)

    def without_parameters(self) -> ModulePart:
        models = tuple(replace(source, parameters={}) for source in self.models)
        slices = tuple(part.without_parameters() for part in self.slices)
        return replace(self, models=models, slices=slices, parameters={})


@dataclass(frozen=True)
class TokenRow:
    """Where the embedding of one token comes from; without a model and `zero`, from any model that has it.

    Args:
        model: the model whose row is used
        token, token_id: the token of that model; if neither is given, the one of the same name
        zero: use a row of zeros
        force: use the row even for models that have the token themselves
    """

    model: ModelReference | None = None
    token: str | None = None
    token_id: int | None = None
    zero: bool = False
    force: bool = False
    where: Place | str = field(default="", compare=False)


@dataclass(frozen=True)
class TokenizerSection:
    """The vocabulary of the result.

    Args:
        source: "union" of all models' tokens, those of the "base" model, or those of a model
        tokens: where the rows of single tokens come from; tokens that the source lacks are added
        pad_to_multiple_of: round the number of rows up to a multiple of this
        approximate: how a model's row for a token that it lacks is made of its other rows; None: rows of other models
            are copied
        k: of how many tokens such a row is made, where the rule chooses them
    """

    source: ModelReference | Literal["union", "base"] = "union"
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    approximate: Rule | None = None
    k: int = 64


@dataclass(frozen=True)
class Recipe:
    """What to merge and how; exactly one of `models`, `slices`, `modules` and `mixture` is not empty.

    `intermediates` are intermediate merges by name: a model of that name is the result of that merge.
    """

    merge_method: str
    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    modules: tuple[ModulePart, ...] = ()
    mixture: Mixture | None = None
    base_model: ModelReference | None = None
    parameters: Parameters = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: TokenizerSection | None = None
    chat_template: str | None = None
    seed: int = 0  # of random methods
    name: str = ""  # under which other recipes of the same text can use the result
    intermediates: Mapping[str, Recipe] = field(default_factory=dict)
    text: str = field(default="", compare=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)  # of what was read otherwise or ignored

    @property
    def plain_dtype(self) -> str | None:
        """What weights without scales are stored in; None: as the models have them."""
        return self.dtype if self.out_dtype in FP8 else self.out_dtype or self.dtype

    @property
    def method(self) -> MergeMethod:
        return METHODS[self.merge_method]

    def without_parameters(self) -> Recipe:
        """The same with no parameters, of which a plan's tensors, their inputs and dtypes mostly do not depend."""
        models = tuple(replace(source, parameters={}) for source in self.models)
        slices = tuple(part.without_parameters() for part in self.slices)
        modules = tuple(part.without_parameters() for part in self.modules)
        return replace(self, models=models, slices=slices, modules=modules, parameters={}, seed=0)

    def with_base(self, models: tuple[Source, ...]) -> tuple[Source, ...]:
        """The models to merge whole: those listed, and the base model if it is not among them.

        As in mergekit, an average includes an unlisted base model, with the recipe's general weight.
        """
        listed = any(source.model == self.base_model for source in models)
        alone = self.method.max_models == 1 and not self.method.needs_base
        if self.base_model is None or listed or alone:
            return models
        return (*models, Source(self.base_model))

    def all_slices(self) -> Iterator[Slice]:
        yield from self.slices
        for part in self.modules:
            yield from part.slices

    def sources(self) -> Iterator[Source]:
        """Every mention of a model as a source, in the order of the recipe."""
        yield from self.models
        for part in self.slices:
            yield from part.sources
        for module in self.modules:
            yield from module.models
            for part in module.slices:
                yield from part.sources
        for expert in self.mixture.all_experts() if self.mixture else ():
            yield Source(expert.model, where=expert.where)

    def merged(self) -> tuple[ModelReference, ...]:
        """The models whose tensors are merged: the sources and the bases."""
        named = [self.base_model, *(source.model for source in self.sources())]
        named += [part.base_model for part in self.all_slices()]
        return tuple(dict.fromkeys(model for model in named if model))

    def references(self) -> tuple[ModelReference, ...]:
        """Every model named, once, in the order of the recipe, the base model first."""
        named: list[ModelReference | None] = [*self.merged()]
        if self.tokenizer:
            named += [row.model for row in self.tokenizer.tokens.values()]
            if isinstance(self.tokenizer.source, ModelReference):
                named.append(self.tokenizer.source)
        return tuple(dict.fromkeys(model for model in named if model))

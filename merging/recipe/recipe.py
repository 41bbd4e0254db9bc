"""A recipe: everything that decides a merge, in mergekit's YAML language, read into frozen, checked types.

    merge_method: slerp
    base_model: org/first
    models:
      - model: org/first
      - model: org/second@v1.0
    parameters:
      t: [0, 0.5, 1]
    dtype: bfloat16

Several documents, `---` between them, are a chain: what one is called by `name:` is a model to the others.

`merging.recipe.reader` makes it of a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from checkpoints.problems import Place
from merging.methods import METHODS, MergeMethod
from merging.recipe.gradients import Setting

Parameters = Mapping[str, Setting]


@dataclass(frozen=True)
class AdapterReference:
    """An adapter: a folder or an id on the Hub, and how much of its change counts (1: all of it)."""

    name: str
    revision: str | None = None
    scale: float = 1.0

    def __str__(self) -> str:
        scale = "" if self.scale == 1 else f" (scale {self.scale:g})"
        return (f"{self.name}@{self.revision}" if self.revision else self.name) + scale


@dataclass(frozen=True)
class ModelReference:
    """A model: a folder, or an id on the Hub, at a revision if one is given, with adapters applied in a row.

    `architecture` is what the result's config names as its class, where it comes from this model.
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
    """A model that takes part, with the layers it gives (None: all) and its own parameters.

    `where` is its place in the recipe's text; it says nothing about the merge and does not count in comparisons.
    """

    model: ModelReference
    layer_range: tuple[int, int] | None = None
    parameters: Parameters = field(default_factory=dict)
    where: Place | str = field(default="", compare=False)


@dataclass(frozen=True)
class Slice:
    """A run of output layers, made from equally many layers of each source."""

    sources: tuple[Source, ...]
    base_model: ModelReference | None = None
    parameters: Parameters = field(default_factory=dict)
    where: Place | str = field(default="", compare=False)


@dataclass(frozen=True)
class ModulePart:
    """What one module of a model (a vision tower, an encoder) is made of; one of `models` and `slices` is not empty."""

    module: str
    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: Parameters = field(default_factory=dict)
    where: Place | str = field(default="", compare=False)


@dataclass(frozen=True)
class TokenRow:
    """Where the embedding of one token comes from; with neither a model nor `zero`, from wherever it is found.

    Args:
        model: that has it
        token, token_id: which of that model's tokens is meant; neither: the one of the same name
        zero: it is a row of zeros
        force: it is used even for models that have the token themselves
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
        tokens: where rows of single tokens come from; those that the source does not have are added to it
        pad_to_multiple_of: of the number of rows
    """

    source: ModelReference | Literal["union", "base"] = "union"
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class Recipe:
    """What a merge is to be; exactly one of `models`, `slices` and `modules` is not empty.

    `stages` are merges that are made on the way, by the names under which models are looked for among them.
    """

    merge_method: str
    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    modules: tuple[ModulePart, ...] = ()
    base_model: ModelReference | None = None
    parameters: Parameters = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: TokenizerSection | None = None
    chat_template: str | None = None
    seed: int = 0  # of the methods that draw at random
    name: str = ""  # by which another recipe of the same text may use the result as a model
    stages: Mapping[str, Recipe] = field(default_factory=dict)
    text: str = field(default="", compare=False)

    @property
    def method(self) -> MergeMethod:
        return METHODS[self.merge_method]

    def with_base(self, models: tuple[Source, ...]) -> tuple[Source, ...]:
        """The whole models that take part: those listed, and the base model if it is not among them.

        So does mergekit: an unlisted base of an average is averaged in, with the recipe's general weight.
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

    def references(self) -> tuple[ModelReference, ...]:
        """Every model named, once, in the order of the recipe, the base model first."""
        named = [self.base_model, *(source.model for source in self.sources())]
        named += [part.base_model for part in self.all_slices()]
        if self.tokenizer:
            named += [row.model for row in self.tokenizer.tokens.values()]
            if isinstance(self.tokenizer.source, ModelReference):
                named.append(self.tokenizer.source)
        return tuple(dict.fromkeys(model for model in named if model))

"""A recipe: everything that decides a merge, in mergekit's YAML language, read into frozen, checked types.

    merge_method: slerp
    base_model: org/first
    models:
      - model: org/first
      - model: org/second@v1.0
    parameters:
      t: [0, 0.5, 1]
    dtype: bfloat16

`read_recipe` finds every fault of the text at once, each with its line and column. What can only be known
with the models at hand (layers, shapes, vocabularies) is found by the plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import yaml

from merging.dtypes import RECIPE_DTYPES
from merging.methods import METHODS, MergeMethod
from merging.methods.parameters import Parameter, Scalar
from merging.problems import Problem, RecipeError, did_you_mean
from merging.settings import Choice, Setting

Parameters = Mapping[str, Setting]
T = TypeVar("T")

# A recipe is a page of text; more is a mistake or an attack (YAML aliases can multiply).
MAX_CHARACTERS = 1_000_000
MAX_NODES = 100_000
TOP_LEVEL = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "seed",
)


class Loader(yaml.SafeLoader):
    """YAML's plain types, and numbers as people write them: to YAML 1.1 alone, `1e-5` is a text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class ModelReference:
    """A model: a folder, or an id on the Hub, at a revision if one is given."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True)
class Source:
    """A model that takes part, with the layers it gives (None: all) and its own parameters.

    `where` is its place in the recipe's text; it says nothing about the merge and does not count in comparisons.
    """

    model: ModelReference
    layer_range: tuple[int, int] | None = None
    parameters: Parameters = field(default_factory=dict)
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Slice:
    """A run of output layers, made from equally many layers of each source."""

    sources: tuple[Source, ...]
    base_model: ModelReference | None = None
    parameters: Parameters = field(default_factory=dict)
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Recipe:
    """What a merge is to be; exactly one of `models` and `slices` is not empty."""

    merge_method: str
    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    base_model: ModelReference | None = None
    parameters: Parameters = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: ModelReference | None = None
    seed: int = 0  # of the methods that draw at random
    text: str = field(default="", compare=False)

    @property
    def method(self) -> MergeMethod:
        return METHODS[self.merge_method]

    def inputs(self) -> tuple[Source, ...]:
        """The whole models that take part: those listed, and the base model if it is not among them.

        So does mergekit: an unlisted base of an average is averaged in, with the recipe's general weight.
        """
        listed = any(source.model == self.base_model for source in self.models)
        alone = self.method.max_models == 1 and not self.method.needs_base
        if self.base_model is None or listed or alone:
            return self.models
        return (*self.models, Source(self.base_model))

    def references(self) -> tuple[ModelReference, ...]:
        """Every model named, once, in the order of the recipe, the base model first."""
        named = [self.base_model, *(source.model for source in self.models)]
        for part in self.slices:
            named += [part.base_model, *(source.model for source in part.sources)]
        named.append(self.tokenizer_source)
        return tuple(dict.fromkeys(model for model in named if model))


def read_recipe(text: str) -> Recipe:
    """Read a recipe from YAML (or JSON) text.

    Raises:
        RecipeError: with every problem of the text.
    """
    reader = _Reader(text)
    recipe = reader.recipe()
    if reader.problems or recipe is None:
        raise RecipeError(sorted(reader.problems, key=lambda problem: _place(problem.where)))
    return recipe


def _place(where: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", where)]


def _where(node: yaml.Node) -> str:
    mark = node.start_mark
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""


class _Reader:
    """Walks the YAML nodes, which know their line and column, and collects problems on the way."""

    def __init__(self, text: str):
        self.text = text
        self.problems: list[Problem] = []
        self.nodes = 0
        self.method: MergeMethod | None = None

    def problem(self, code: str, message: str, fix: str, node: yaml.Node | None) -> None:
        self.problems.append(Problem(code, message, fix, _where(node) if node else "line 1, column 1"))

    # -- the document ----------------------------------------------------------------------------------

    def document(self) -> yaml.Node | None:
        if len(self.text) > MAX_CHARACTERS:
            message = f"The recipe has {len(self.text)} characters."
            self.problem("too-long", message, "A recipe is a page of text.", None)
            return None
        try:
            node = yaml.compose(self.text, Loader=Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1, column 1"
            message = f"This is not YAML: {error.problem or error.context}."
            self.problems.append(
                Problem("yaml", message, "Check indentation, colons and brackets there.", where)
            )
            return None
        except (yaml.YAMLError, RecursionError) as error:
            self.problem("yaml", f"This is not YAML: {type(error).__name__}.", "Check the text.", None)
            return None
        if node is None:
            self.problem("empty", "The recipe is empty.", "Start with `merge_method:` and `models:`.", None)
        return node

    def recipe(self) -> Recipe | None:
        node = self.document()
        if node is None:
            return None
        fields = self.mapping(
            node,
            "the recipe",
            known=TOP_LEVEL,
            later=("modules", "tokenizer", "chat_template"),
        )
        if fields is None:
            return None
        self.method = self.merge_method(fields.get("merge_method"), node)
        self.exactly_one_of(fields, node)
        recipe = Recipe(
            merge_method=self.method.name if self.method else "",
            models=self.sequence(fields.get("models"), "models", self.model_entry),
            slices=self.sequence(fields.get("slices"), "slices", self.slice_entry),
            base_model=self.reference(fields.get("base_model")),
            parameters=self.parameters(fields.get("parameters"), models_own=False),
            dtype=self.dtype(fields.get("dtype")),
            out_dtype=self.dtype(fields.get("out_dtype")),
            tokenizer_source=self.tokenizer_source(fields.get("tokenizer_source"), fields.get("base_model")),
            seed=self.seed(fields.get("seed")),
            text=self.text,
        )
        if self.method:
            self.structure(recipe, self.method, fields, node)
        return recipe

    def exactly_one_of(self, fields: Mapping[str, yaml.Node], node: yaml.Node) -> None:
        if "models" in fields and "slices" in fields:
            message = "A recipe has either `models` or `slices`; this one has both."
            self.problem("models-or-slices", message, "Remove one of them.", fields["slices"])
        elif not {"models", "slices"} & fields.keys():
            message = "The recipe names no models."
            self.problem("no-models", message, "Add a list `models:` (or `slices:` for layers).", node)

    def structure(
        self, recipe: Recipe, method: MergeMethod, fields: Mapping[str, yaml.Node], node: yaml.Node
    ) -> None:
        """Checks that concern several fields at once: how many models, is there a base, is anything unset."""
        if method.needs_base and not recipe.base_model and not any(s.base_model for s in recipe.slices):
            message = f"{method.title} ({method.name}) needs a base model, and the recipe has none."
            self.problem("no-base", message, "Add `base_model:`.", fields.get("merge_method", node))
            return
        if recipe.models:
            self.run_of_sources(recipe, method, Slice(recipe.inputs(), where=_where(node)))
        for part in recipe.slices:
            base = part.base_model or recipe.base_model
            if method.takes_base and base and all(source.model != base for source in part.sources):
                message = f"The base model {base} is not among the sources of this slice."
                fix = "Add it to the sources, with the layers it gives."
                self.problems.append(Problem("base-not-in-slice", message, fix, part.where))
            self.run_of_sources(recipe, method, part)

    def run_of_sources(self, recipe: Recipe, method: MergeMethod, part: Slice) -> None:
        base = part.base_model or recipe.base_model
        subtracted = method.takes_off(base is not None)
        counted = [s for s in part.sources if not (subtracted and s.model == base)]
        number = len(counted)
        low, high = method.min_models, method.max_models
        if number < low or (high is not None and number > high):
            wanted = (
                f"exactly {low}" if low == high else f"at least {low}" if number < low else f"at most {high}"
            )
            noun = f"model{'s' * (wanted[-2:] != ' 1')}{' besides the base' * subtracted}"
            message = f"{method.title} merges {wanted} {noun}; {number} given."
            self.problems.append(Problem("number-of-models", message, "Add or remove models.", part.where))
        for parameter in method.parameters:
            if not parameter.required:
                continue
            holders: list[Source | None] = [*counted] if parameter.per_model else [None]
            for holder in holders:
                given = [recipe.parameters, part.parameters, holder.parameters if holder else {}]
                if not any(parameter.name in level for level in given):
                    of = f" for {holder.model}" if holder else ""
                    message = f"{method.title} needs `{parameter.name}`{of}: {parameter.help}."
                    fix = f"Add `{parameter.name}:` ({parameter.expected()}) under `parameters:`."
                    place = holder.where if holder else part.where
                    self.problems.append(Problem("missing-parameter", message, fix, place))

    # -- fields ----------------------------------------------------------------------------------------

    def merge_method(self, node: yaml.Node | None, recipe: yaml.Node) -> MergeMethod | None:
        if node is None:
            fix = f"Add `merge_method:`, one of {', '.join(METHODS)}."
            self.problem("no-method", "The recipe names no merge method.", fix, recipe)
            return None
        name = self.text_of(node, "a merge method's name")
        if name is None:
            return None
        if name not in METHODS:
            message = f"There is no merge method '{name}'."
            self.problem("unknown-method", message, did_you_mean(name, METHODS), node)
            return None
        return METHODS[name]

    def model_entry(self, node: yaml.Node) -> Source | None:
        fields = self.mapping(node, "a model's entry", known=("model", "parameters"))
        return self.source(fields, node)

    def slice_source(self, node: yaml.Node) -> Source | None:
        fields = self.mapping(node, "a source", known=("model", "layer_range", "parameters"))
        if fields is not None and "layer_range" not in fields:
            message = "A source of a slice has to say which layers it gives."
            fix = "Add `layer_range: [start, end]`; the end is not included, the first layer is 0."
            self.problem("no-layer-range", message, fix, node)
        return self.source(fields, node)

    def source(self, fields: Mapping[str, yaml.Node] | None, node: yaml.Node) -> Source | None:
        if fields is None:
            return None
        if "model" not in fields:
            self.problem("no-model", "This entry names no model.", "Add `model: owner/name`.", node)
        reference = self.reference(fields.get("model"))
        parameters = self.parameters(fields.get("parameters"), models_own=True)
        layers = self.layer_range(fields.get("layer_range"))
        return Source(reference, layers, parameters, _where(fields["model"])) if reference else None

    def slice_entry(self, node: yaml.Node) -> Slice | None:
        fields = self.mapping(
            node, "a slice", known=("sources", "base_model", "parameters"), ignored=("residual_weight",)
        )
        if fields is None:
            return None
        if "sources" not in fields:
            self.problem("no-sources", "This slice has no `sources`.", "Add a list `sources:`.", node)
        sources = self.sequence(fields.get("sources"), "sources", self.slice_source)
        lengths = {s.layer_range[1] - s.layer_range[0] for s in sources if s.layer_range}
        if len(lengths) > 1:
            given = ", ".join(f"{s.model}: {list(s.layer_range)}" for s in sources if s.layer_range)
            message = f"The sources of a slice must give equally many layers; given {given}."
            self.problem("unequal-layers", message, "Make the ranges equally long.", node)
        base = self.reference(fields.get("base_model"))
        return Slice(sources, base, self.parameters(fields.get("parameters"), models_own=False), _where(node))

    def layer_range(self, node: yaml.Node | None) -> tuple[int, int] | None:
        if node is None:
            return None
        match self.plain(node):
            case [int(start), int(end)] if 0 <= start <= end:
                return start, end
        message = f"A layer range is [start, end] with 0 <= start <= end; found {self.shown(node)}."
        self.problem("layer-range", message, "The end is not included: [0, 8] are layers 0 to 7.", node)
        return None

    def seed(self, node: yaml.Node | None) -> int:
        value = None if node is None else self.plain(node)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            self.problem("seed", f"`seed` is {value!r}.", "Write a whole number from 0 on.", node)
            return 0
        return value

    def dtype(self, node: yaml.Node | None) -> str | None:
        if node is None:
            return None
        value = self.text_of(node, "a dtype")
        if value is None or value.removeprefix("torch.") in RECIPE_DTYPES:
            return value and value.removeprefix("torch.")
        message = f"There is no dtype '{value}' for weights."
        self.problem("dtype", message, did_you_mean(value, RECIPE_DTYPES), node)
        return None

    def tokenizer_source(self, node: yaml.Node | None, base: yaml.Node | None) -> ModelReference | None:
        if node is None:
            return None
        if self.plain(node) == "union":
            message = "A union of vocabularies cannot be built yet."
            fix = "Use `tokenizer_source: base` or a model's name, with models of one vocabulary."
            self.problem("not-yet", message, fix, node)
            return None
        if self.plain(node) == "base":
            if base is None:
                message = "`tokenizer_source: base` needs a base model, and the recipe has none."
                self.problem("no-base", message, "Add `base_model:`, or name a model here.", node)
                return None
            node = base
        return self.reference(node)

    def reference(self, node: yaml.Node | None) -> ModelReference | None:
        if node is None:
            return None
        if isinstance(node, yaml.MappingNode):
            return self.reference_fields(node)
        text = self.text_of(node, "a model")
        if text is None:
            return None
        name, plus, _ = text.partition("+")
        if plus:
            self.no_adapter_yet(node)
        name, at, revision = name.partition("@")
        if not name or (at and (not revision or "@" in revision)):
            message = f"'{text}' is not a model's name."
            self.problem(
                "model-name", message, "Write `owner/name`, `owner/name@revision` or a folder.", node
            )
            return None
        return ModelReference(name, revision or None)

    def reference_fields(self, node: yaml.MappingNode) -> ModelReference | None:
        """The dict form: `{model: {path: ..., revision: ...}}`."""
        fields = self.mapping(node, "a model", known=("model",), later=("lora", "override_architecture"))
        if not fields or "model" not in fields:
            return None
        inner = self.mapping(fields["model"], "a model's path", known=("path", "revision"))
        if inner is None:
            return None
        if "path" not in inner:
            self.problem("model-name", "This model has no `path`.", "Add `path: owner/name`.", node)
            return None
        path = self.text_of(inner["path"], "a path")
        revision = self.text_of(inner["revision"], "a revision") if "revision" in inner else None
        return ModelReference(path, revision) if path else None

    def no_adapter_yet(self, node: yaml.Node) -> None:
        message = "Adapters (`base+adapter`) cannot be merged yet."
        fix = "Merge the adapter into its base with PEFT first, and name the result."
        self.problem("not-yet", message, fix, node)

    # -- parameters ------------------------------------------------------------------------------------

    def parameters(self, node: yaml.Node | None, *, models_own: bool) -> Parameters:
        found: dict[str, Setting] = {}
        method = self.method
        for name, value in self.pairs(node, "`parameters`"):
            if method is None:  # without a method nothing can be said about its parameters
                continue
            if name.value in method.ignored:
                continue
            parameter = method.parameter(name.value)
            if parameter is None:
                message = f"{method.title} ({method.name}) has no parameter '{name.value}'."
                known = [p.name for p in method.parameters]
                self.problem("unknown-parameter", message, did_you_mean(name.value, known), name)
            elif models_own and not parameter.per_model:
                message = (
                    f"`{parameter.name}` of {method.title} is one value for all models, not one a model."
                )
                fix = "Move it to `parameters:` of the recipe (or of the slice)."
                self.problem("shared-parameter", message, fix, name)
            else:
                setting = self.setting(parameter, value)
                if setting:
                    found[parameter.name] = setting
        return found

    def setting(self, parameter: Parameter, node: yaml.Node) -> Setting:
        if isinstance(node, yaml.SequenceNode) and any(isinstance(n, yaml.MappingNode) for n in node.value):
            choices = [self.choice(parameter, item) for item in node.value]
        else:
            choices = [self.choice(parameter, node)]
        return tuple(choice for choice in choices if choice)

    def choice(self, parameter: Parameter, node: yaml.Node) -> Choice | None:
        filtered = None
        if isinstance(node, yaml.MappingNode):
            fields = self.mapping(node, "a value with a filter", known=("filter", "value"))
            if fields is None:
                return None
            if "value" not in fields:
                self.problem("no-value", "This filter has no `value`.", "Add `value:`.", node)
                return None
            if "filter" in fields:
                wanted = self.plain(fields["filter"])
                filtered = None if wanted is None else str(wanted)
            node = fields["value"]
        if isinstance(node, yaml.SequenceNode):
            anchors = tuple(self.scalar(parameter, item) for item in node.value)
            known = tuple(anchor for anchor in anchors if anchor is not None)
            return Choice(known, filtered) if known else None
        value = self.scalar(parameter, node)
        return None if value is None else Choice(value, filtered)

    def scalar(self, parameter: Parameter, node: yaml.Node) -> Scalar | None:
        value = self.plain(node)
        if isinstance(value, str) and parameter.kind in ("number", "integer"):
            # YAML 1.1 takes 1e-5 for text.
            value = _number(value)
        if parameter.accepts(value):
            return parameter.convert(value)  # type: ignore[arg-type]
        message = f"`{parameter.name}` has to be {parameter.expected()}; found {self.shown(node)}."
        self.problem("parameter-value", message, f"It says {parameter.help}.", node)
        return None

    # -- YAML ------------------------------------------------------------------------------------------

    def mapping(
        self,
        node: yaml.Node,
        what: str,
        known: tuple[str, ...],
        ignored: tuple[str, ...] = (),
        later: tuple[str, ...] = (),
    ) -> dict[str, yaml.Node] | None:
        """The fields of a mapping; unknown, repeated and not yet supported ones become problems."""
        if not isinstance(node, yaml.MappingNode):
            message = f"Expected {what} as `key: value` lines; found {self.shown(node)}."
            self.problem("not-a-mapping", message, f"Keys: {', '.join(known)}.", node)
            return None
        fields: dict[str, yaml.Node] = {}
        for key, value in self.pairs(node, what):
            name = key.value
            if name in later:
                self.problem("not-yet", f"`{name}` is not supported yet.", "Leave it out for now.", key)
            elif name not in known and name not in ignored:
                message = f"Unknown key '{name}' in {what}."
                self.problem("unknown-key", message, did_you_mean(str(name), known), key)
            elif not (isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null")):
                fields[name] = value
        return fields

    def pairs(self, node: yaml.Node | None, what: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            message = f"Expected {what} as `key: value` lines; found {self.shown(node)}."
            self.problem("not-a-mapping", message, "Write `name: value`, one a line.", node)
            return
        seen: set[str] = set()
        for key, value in node.value:
            self.count(node)
            if not isinstance(key, yaml.ScalarNode):
                self.problem("key", "A key has to be a word.", "", key)
            elif key.value in seen:
                message = f"'{key.value}' stands twice in {what}."
                self.problem("repeated-key", message, "Keep one of them.", key)
            else:
                seen.add(key.value)
                yield key, value

    def sequence(
        self, node: yaml.Node | None, what: str, read: Callable[[yaml.Node], T | None]
    ) -> tuple[T, ...]:
        if node is None:
            return ()
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            message = f"`{what}` has to be a list with at least one entry; found {self.shown(node)}."
            self.problem("not-a-list", message, "Write each entry behind a dash.", node)
            return ()
        items = [read(item) for item in node.value if self.count(item)]
        return tuple(item for item in items if item is not None)

    def text_of(self, node: yaml.Node, what: str) -> str | None:
        value = self.plain(node)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return node.value  # type: ignore[no-any-return]  # a name made of digits
        self.problem("not-text", f"Expected {what}; found {self.shown(node)}.", "Write it as text.", node)
        return None

    def plain(self, node: yaml.Node) -> object:
        """The Python value of a scalar or of a list of scalars; None for anything else."""
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item) for item in node.value if self.count(item)]
        if not isinstance(node, yaml.ScalarNode):
            return None
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, yaml.YAMLError):
            return None

    def shown(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            return f"'{node.value[:60]}'"
        if isinstance(node, yaml.MappingNode):
            return "a mapping"
        return "a list" if len(node.value) != 2 else str(self.plain(node))

    def count(self, node: yaml.Node) -> bool:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            message = "The recipe unfolds to too many values."
            raise RecipeError(Problem("too-long", message, "Use fewer aliases.", _where(node)))
        return True


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

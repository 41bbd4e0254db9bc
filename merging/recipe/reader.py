"""Reads a recipe: mergekit's YAML into checked types, or every problem of the text at once.

What takes the models to know (layers, shapes, vocabularies) is checked by the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import yaml

from checkpoints.approximation import Rule
from checkpoints.dtypes import RECIPE_DTYPES
from checkpoints.names import is_folder, split_adapters
from checkpoints.problems import Place, Problem, RecipeError, suggestion
from checkpoints.yaml import BEGINNING
from merging.fp8 import ALIASES, FP8
from merging.methods import METHODS, MergeMethod
from merging.methods.parameters import Parameter, Scalar
from merging.recipe.chat_templates import TEMPLATES
from merging.recipe.gradients import ConditionalParameter, ParameterSetting
from merging.recipe.mixture_reader import OWN_KEYS, read_mixture
from merging.recipe.recipe import (
    AdapterReference,
    ModelReference,
    ModulePart,
    Parameters,
    Recipe,
    Slice,
    Source,
    TokenizerSection,
    TokenRow,
)
from merging.recipe.yaml import YamlReader, place_of

MOST_PADDING = 65536
# Models and adapters of a recipe: each is several questions to the Hub.
MOST_MODELS = 200
# Keys of the tokenizer section, rules that approximate rows, and tokens that they make a row of at most.
TOKENIZER = ("source", "tokens", "pad_to_multiple_of", "approximate", "k")
RULES: tuple[Rule, ...] = get_args(Rule)
MOST_NEIGHBOURS = 512
# A shorter text is a misspelled name.
SHORTEST_TEMPLATE = 20
# Keys that only recipes of other programs have.
OTHER_PROGRAMS = {"genome": "mergekit-evolve"}
# Keys of the documents of a pipeline that are no recipes.
STAGES = ("train", "gguf")
TOP_LEVEL = (
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "seed",
    "name",
)
# Keys that a recipe has once, for all of it: where one is found deeper, it was meant for all of it.
FOR_ALL = (
    "merge_method",
    "base_model",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "seed",
)
# Other programs' names for keys.
RENAMED = {"random_seed": "seed"}
# Keys that change no number of the result: they describe the model, or say how a program is to work.
NO_MATTER = (
    *("author", "authors", "card", "comment", "comments", "date", "description", "language", "library_name"),
    *(
        "licence",
        "license",
        "merge_name",
        "merged_model_name",
        "metadata",
        "model_name",
        "new_model",
        "notes",
    ),
    *("pipeline_tag", "tags", "title", "version"),
    *(
        "allow_crimes",
        "copy_tokenizer",
        "cuda",
        "device",
        "lazy_unpickle",
        "low_cpu_memory",
        "low_cpu_mem_usage",
    ),
    *("out_path", "out_shard_size", "output_dir", "output_path", "trust_remote_code", "use_cuda", "verbose"),
    *("write_model_card",),
)
# All that some method reads.
PARAMETERS = frozenset(
    name for method in METHODS.values() for name in (*(p.name for p in method.parameters), *method.ignored)
)
# The longest name of a model with its revision; folders may have longer ones, within what systems allow.
LONGEST_NAME = 1024


def read_recipe(text: str) -> Recipe:
    """Read a recipe from YAML (or JSON) text.

    >>> recipe = read_recipe("merge_method: linear\\nmodels: [{model: a/b, parameters: {weight: 1}}]")
    >>> recipe.merge_method
    'linear'

    Raises:
        RecipeError: with every problem of the text.
    """
    reader = Reader(text)
    return _checked(reader, reader.recipe(reader.documents()))


def read_nodes(nodes: Sequence[yaml.Node], text: str) -> Recipe:
    """Read a recipe from YAML nodes, one for each document.

    Args:
        nodes: problems are reported at their places
        text: of the recipe

    Raises:
        RecipeError: with every problem of the recipe.
    """
    reader = Reader(text)
    return _checked(reader, reader.recipe(nodes))


def _checked(reader: Reader, recipe: Recipe | None) -> Recipe:
    if recipe and (count := len(_repositories(recipe))) > MOST_MODELS:
        reader.report(Problem("many-models", {"count": count, "most": MOST_MODELS}, BEGINNING))
    if reader.problems or recipe is None:
        raise RecipeError(sorted(reader.problems, key=place_in_text))
    return replace(recipe, warnings=tuple(sorted(reader.warnings, key=place_in_text)))


def _repositories(recipe: Recipe) -> set[tuple[str, str | None]]:
    """What a plan has to open: names and revisions of the models and adapters of a recipe, and of those before it."""
    references = [
        reference for one in (recipe, *recipe.intermediates.values()) for reference in one.references()
    ]
    adapters = {(adapter.name, adapter.revision) for one in references for adapter in one.adapters}
    return adapters | {(one.name, one.revision) for one in references}


def read_reference(text: str) -> ModelReference:
    """Read a model as a recipe writes it: `BASE[@REVISION][+ADAPTER[@REVISION]]...`, or a mapping in braces.

    Raises:
        RecipeError: the text names no model.
    """
    reader = Reader(text)
    is_name = not text.lstrip().startswith("{")
    nodes = [yaml.ScalarNode("tag:yaml.org,2002:str", text)] if is_name else reader.documents()
    reference = reader.reference(nodes[0]) if nodes else None
    if reader.problems or reference is None:
        raise RecipeError(replace(problem, where=text) for problem in reader.problems)
    return reference


def place_in_text(problem: Problem) -> Place:
    """Where a problem is; those of no place come first."""
    return problem.where if isinstance(problem.where, Place) else Place(0, 0)


class Reader(YamlReader):
    """Reads the fields of a recipe."""

    def __init__(self, text: str):
        super().__init__(text)
        self.method: MergeMethod | None = None

    def recipe(self, documents: Sequence[yaml.Node]) -> Recipe | None:
        """The one recipe of the documents; or of several, the last in the chain, with the others as its
        intermediates."""
        if any(self.is_stage(node) for node in documents):
            return None
        read = [(node, self.one(node)) for node in documents]
        if len(read) == 1:
            return read[0][1]
        intermediates: dict[str, Recipe] = {}
        last: Recipe | None = None
        for node, recipe in read:
            if recipe is None:
                continue
            if recipe.name in intermediates:
                self.problem("repeated-name", {"name": recipe.name}, node)
            elif recipe.name:
                intermediates[recipe.name] = recipe
            elif last and not last.name:
                self.problem("nameless-recipes", {}, node)
            last = last if last and not last.name else recipe
        if last is None:
            return None
        intermediates = {name: recipe for name, recipe in intermediates.items() if recipe is not last}
        self.check_chain(last, intermediates, {recipe.name: node for node, recipe in read if recipe})
        return replace(last, intermediates=intermediates)

    def is_stage(self, node: yaml.Node) -> bool:
        """Report a document that is a stage of a pipeline, and no recipe."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        found = next((key for key in keys if key in STAGES and "merge_method" not in keys), None)
        if found:
            self.problem("not-only-recipes", {"key": found}, node)
        return found is not None

    def check_chain(
        self, last: Recipe, intermediates: Mapping[str, Recipe], nodes: Mapping[str, yaml.Node]
    ) -> None:
        """Find recipes that use each other in a circle, and recipes that no other uses."""
        reached: set[str] = set()

        def follow(recipe: Recipe, behind: tuple[str, ...]) -> None:
            for reference in recipe.references():
                if reference.name in (*behind, recipe.name):
                    chain = " -> ".join((*behind, recipe.name, reference.name))
                    self.problem("circle", {"chain": chain}, nodes[recipe.name])
                elif reference.name in intermediates and reference.name not in reached:
                    reached.add(reference.name)
                    follow(intermediates[reference.name], (*behind, recipe.name))

        if last.name:
            intermediates = {**intermediates, last.name: last}
        follow(last, ())
        for name in intermediates.keys() - reached - {last.name}:
            self.problem("unused-merge", {"name": name}, nodes[name])

    def one(self, node: yaml.Node) -> Recipe | None:
        """The recipe of one document."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        if other := next((key for key in keys if key in OTHER_PROGRAMS and "merge_method" not in keys), None):
            self.problem("other-program", {"key": other, "program": OTHER_PROGRAMS[other]}, node)
            return None
        # Its parameters tell what a misplaced key means.
        self.method = METHODS.get(next((str(v.value) for k, v in pairs if k.value == "merge_method"), ""))
        is_merge = {"models", "slices", "modules"} & {*keys} and "merge_method" in keys
        if {*OWN_KEYS} & {*keys} and not (self.method or is_merge):
            self.method = None
            return read_mixture(self, node)
        fields = self.mapping(node, "recipe", known=TOP_LEVEL)
        if fields is None:
            return None
        self.method = self.merge_method(fields.get("merge_method"), node)
        self.exactly_one_of(fields, node, "recipe", ("models", "slices", "modules"))
        recipe = Recipe(
            merge_method=self.method.name if self.method else "",
            models=self.sequence(fields.get("models"), "models", self.model_entry),
            slices=self.sequence(fields.get("slices"), "slices", self.slice_entry),
            modules=self.modules(fields.get("modules")),
            base_model=self.reference(fields.get("base_model")),
            parameters=self.parameters(fields.get("parameters"), models_own=False),
            dtype=self.dtype(fields.get("dtype")),
            out_dtype=self.dtype(fields.get("out_dtype"), (*RECIPE_DTYPES, *FP8)),
            tokenizer=self.tokenizer(fields.get("tokenizer"), fields.get("tokenizer_source")),
            chat_template=self.chat_template(fields.get("chat_template")),
            seed=self.seed(fields.get("seed")),
            name=(self.text_of(fields["name"], "name") or "") if "name" in fields else "",
            text=self.text,
        )
        if self.method:
            self.structure(recipe, self.method, fields, node)
        return recipe

    def exactly_one_of(
        self, fields: Mapping[str, yaml.Node], node: yaml.Node, what: str, names: tuple[str, ...]
    ) -> None:
        given = [name for name in names if name in fields]
        if len(given) > 1:
            values = {"what": what, "known": list(names), "given": given}
            self.problem("models-or-slices", values, fields[given[1]])
        elif not given and not self.is_misspelt(names):
            self.problem("no-models", {"what": what}, node)

    def structure(
        self, recipe: Recipe, method: MergeMethod, fields: Mapping[str, yaml.Node], node: yaml.Node
    ) -> None:
        """Check what concerns several fields: the number of models, the base, parameters that are missing."""
        if method.needs_base and not recipe.base_model and not any(s.base_model for s in recipe.all_slices()):
            values = {"method": method.name, "title": method.title}
            self.problem("no-base", values, fields.get("merge_method", node))
            return
        whole = ModulePart("", recipe.models, recipe.slices, where=place_of(node))
        for module in recipe.modules or (whole,):
            levels = (module.parameters, recipe.parameters)
            if module.models:
                part = Slice(recipe.with_base(module.models), where=module.where)
                self.run_of_sources(recipe, method, part, levels)
            for part in module.slices:
                base = part.base_model or recipe.base_model
                if method.needs_base and not base:
                    values = {"method": method.name, "title": method.title}
                    self.report(Problem("slice-without-base", values, part.where))
                    continue
                if method.takes_base and base and all(source.model != base for source in part.sources):
                    self.report(Problem("base-not-in-slice", {"base": str(base)}, part.where))
                self.run_of_sources(recipe, method, part, levels)

    def run_of_sources(
        self, recipe: Recipe, method: MergeMethod, part: Slice, levels: tuple[Parameters, ...]
    ) -> None:
        base = part.base_model or recipe.base_model
        subtracted = method.takes_off(base is not None)
        counted = [s for s in part.sources if not (subtracted and s.model == base)]
        number = len(counted)
        low, high = method.min_models, method.max_models
        if subtracted and not number and part.sources and base and base.adapters:
            adapters = [adapter.name for adapter in base.adapters]
            about_base = {"title": method.title, "base": str(base), "adapters": adapters}
            self.report(Problem("adapter-on-base", about_base, part.where))
            return
        if number < low or (high is not None and number > high):
            code = (
                "number-of-models" if low == high else "too-few-models" if number < low else "too-many-models"
            )
            values = {
                "method": method.name,
                "title": method.title,
                "wanted": low if number < low else high,
                "given": number,
                "base": str(base) if subtracted else None,
            }
            self.report(Problem(code, values, part.where))
        for parameter in method.parameters:
            if not parameter.required or self.is_misplaced(parameter.name):
                continue
            holders: list[Source | None] = [*counted] if parameter.per_model else [None]
            for holder in holders:
                given = [*levels, part.parameters, holder.parameters if holder else {}]
                if not any(parameter.name in level for level in given):
                    values = about(method, parameter)
                    place = holder.where if holder else part.where
                    if holder:
                        values["model"] = str(holder.model)
                    self.report(Problem("missing-parameter", values, place))

    # -- keys in the wrong place -----------------------------------------------------------------------

    def unknown_key(
        self,
        key: yaml.ScalarNode,
        value: yaml.Node,
        what: str,
        known: tuple[str, ...],
        given: Sequence[str] = (),
    ) -> None:
        """Report a key that a mapping does not have: what it was meant for, if that can be seen; else that it is
        ignored, if it can change no number of the result."""
        name, method = key.value, self.method
        parameter = method.parameter(name) if method and "parameters" in known else None
        if name == "revision" and {"model", "base_model"} & {*known}:
            self.problem("revision-beside-model", {}, key)
        elif name in ("lora", "adapter") and "model" in known:
            self.problem("adapter-beside-model", {"name": name}, key)
        elif what == "filtered-value" and name in PARAMETERS:
            values = {"name": name, "what": what, "near": "value", "known": sorted(known)}
            self.problem("unknown-key", values, key)
        elif parameter:
            self.problem("misplaced-parameter", {"name": name, "what": what}, key)
        elif RENAMED.get(name, name) in FOR_ALL and what != "recipe":
            self.problem("misplaced-key", {"name": name, "what": what}, key)
        elif name == "filter" and "parameters" in known:
            self.problem("stray-filter", {}, key)
        elif name in RENAMED and RENAMED[name] in known:
            values = {"name": name, "what": what, "near": RENAMED[name], "known": sorted(known)}
            self.problem("unknown-key", values, key)
        elif self.holds_anchors(value):
            super().unknown_key(key, value, what, known, given)
        elif name in NO_MATTER or (name == "name" and "parameters" in known):
            self.warn("ignored-key", {"name": name, "what": what}, key)
        elif method and "parameters" in known and name in PARAMETERS:
            self.warn_of_parameter(method, key)
        else:
            super().unknown_key(key, value, what, known, given)

    def is_misplaced(self, name: str) -> bool:
        """Whether a parameter is somewhere in the text, if in the wrong place."""
        return any(
            each.code == "misplaced-parameter" and each.values["name"] == name for each in self.problems
        )

    def is_misspelt(self, names: Sequence[str]) -> bool:
        """Whether a key was reported that was meant to be one of these."""
        return any(each.code == "unknown-key" and each.values["near"] in names for each in self.problems)

    def warn_of_parameter(self, method: MergeMethod, key: yaml.ScalarNode) -> None:
        """Say that a parameter is one of other methods."""
        near = suggestion(key.value, [p.name for p in method.parameters])["near"]
        values = {"method": method.name, "title": method.title, "name": key.value, "near": near}
        self.warn("ignored-parameter", values, key)

    # -- fields ----------------------------------------------------------------------------------------

    def merge_method(self, node: yaml.Node | None, recipe: yaml.Node) -> MergeMethod | None:
        if node is None:
            if not self.is_misspelt(["merge_method"]):
                self.problem("no-method", {"known": list(METHODS)}, recipe)
            return None
        name = self.text_of(node, "merge-method")
        if name is None:
            return None
        if name not in METHODS:
            self.problem("unknown-method", {"name": name, **suggestion(name, METHODS)}, node)
            return None
        return METHODS[name]

    def model_entry(self, node: yaml.Node) -> Source | None:
        fields = self.mapping(node, "model-entry", ("model", "parameters"), ignored=("layer_range",))
        if fields and "layer_range" in fields:
            self.problem("layers-of-models", {}, fields.pop("layer_range"))
        return self.source(fields, node)

    def slice_source(self, node: yaml.Node) -> Source | None:
        fields = self.mapping(node, "source", known=("model", "layer_range", "parameters"))
        if fields is not None and "layer_range" not in fields:
            self.problem("no-layer-range", {}, node)
        return self.source(fields, node)

    def source(self, fields: Mapping[str, yaml.Node] | None, node: yaml.Node) -> Source | None:
        if fields is None:
            return None
        if "model" not in fields:
            self.problem("no-model", {}, node)
        reference = self.reference(fields.get("model"))
        parameters = self.parameters(fields.get("parameters"), models_own=True)
        layers = self.layer_range(fields.get("layer_range"))
        return Source(reference, layers, parameters, place_of(fields["model"])) if reference else None

    def slice_entry(self, node: yaml.Node) -> Slice | None:
        fields = self.mapping(
            node, "slice", known=("sources", "base_model", "parameters"), ignored=("residual_weight",)
        )
        if fields is None:
            return None
        if "sources" not in fields:
            self.problem("no-sources", {}, node)
        sources = self.sequence(fields.get("sources"), "sources", self.slice_source)
        lengths = {s.layer_range[1] - s.layer_range[0] for s in sources if s.layer_range}
        if len(lengths) > 1:
            given = [f"{s.model}: {list(s.layer_range)}" for s in sources if s.layer_range]
            self.problem("unequal-ranges", {"given": given}, node)
        base = self.reference(fields.get("base_model"))
        return Slice(
            sources, base, self.parameters(fields.get("parameters"), models_own=False), place_of(node)
        )

    def modules(self, node: yaml.Node | None) -> tuple[ModulePart, ...]:
        pairs = list(self.pairs(node, "`modules`"))
        if isinstance(node, yaml.MappingNode) and not pairs:
            self.problem("no-modules", {}, node)
        parts = [self.module(key, value) for key, value in pairs]
        return tuple(part for part in parts if part)

    def module(self, key: yaml.ScalarNode, node: yaml.Node) -> ModulePart | None:
        fields = self.mapping(node, "module", known=("models", "slices", "parameters"))
        if fields is None:
            return None
        self.exactly_one_of(fields, key, "module", ("models", "slices"))
        return ModulePart(
            str(key.value),
            self.sequence(fields.get("models"), "models", self.model_entry),
            self.sequence(fields.get("slices"), "slices", self.slice_entry),
            self.parameters(fields.get("parameters"), models_own=False),
            place_of(key),
        )

    def layer_range(self, node: yaml.Node | None) -> tuple[int, int] | None:
        if node is None:
            return None
        match self.plain(node):
            case [int(start), int(end)] if 0 <= start <= end:
                return start, end
        self.problem("not-a-layer-range", {"found": self.shown(node)}, node)
        return None

    def seed(self, node: yaml.Node | None) -> int:
        if node is None or (value := self.plain(node)) is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            self.problem("seed", {"found": self.shown(node)}, node)
            return 0
        return value

    def dtype(self, node: yaml.Node | None, known: Sequence[str] = RECIPE_DTYPES) -> str | None:
        if node is None:
            return None
        value = self.text_of(node, "dtype")
        if value is None:
            return None
        name = value.removeprefix("torch.")
        name = ALIASES.get(name, name)
        if name in known:
            return name
        if name in FP8:
            self.problem("fp8-dtype", {"name": name}, node)
        else:
            self.problem("dtype", {"name": value, **suggestion(value, known)}, node)
        return None

    def tokenizer(self, node: yaml.Node | None, source: yaml.Node | None) -> TokenizerSection | None:
        if node is None:
            return TokenizerSection(self.vocabulary(source)) if source else None
        if source:
            self.problem("tokenizer-or-source", {}, source)
        fields = self.mapping(node, "tokenizer", known=TOKENIZER)
        if fields is None:
            return None
        tokens = {
            str(key.value): row
            for key, value in self.pairs(fields.get("tokens"), "`tokens`")
            if (row := self.token(value))
        }
        multiple = self.plain(fields["pad_to_multiple_of"]) if "pad_to_multiple_of" in fields else 1
        if isinstance(multiple, bool) or not isinstance(multiple, int) or not 1 <= multiple <= MOST_PADDING:
            padding = fields["pad_to_multiple_of"]
            self.problem("pad-to-multiple-of", {"found": self.shown(padding), "most": MOST_PADDING}, padding)
            multiple = 1
        rule = self.rule(fields.get("approximate"))
        k = self.neighbours(fields.get("k"), rule)
        return TokenizerSection(self.vocabulary(fields.get("source")), tokens, multiple, rule, k)

    def rule(self, node: yaml.Node | None) -> Rule | None:
        """How rows are approximated."""
        value = None if node is None else self.plain(node)
        if value is None:
            return None
        if value not in RULES:
            assert node is not None
            values = {"found": self.shown(node), **suggestion(str(value), RULES)}
            self.problem("approximate", values, node)
            return None
        return value

    def neighbours(self, node: yaml.Node | None, rule: Rule | None) -> int:
        """Of how many tokens an approximated row is made."""
        if node is None:
            return TokenizerSection.k
        value = self.plain(node)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_NEIGHBOURS:
            self.problem("neighbours", {"found": self.shown(node), "most": MOST_NEIGHBOURS}, node)
            return TokenizerSection.k
        if rule not in ("omp", "nearest"):
            self.problem("k-without-neighbours", {"k": value}, node)
        return value

    def vocabulary(self, node: yaml.Node | None) -> ModelReference | Literal["union", "base"]:
        match None if node is None else self.plain(node):
            case "base":
                return "base"
            case None | "union" if not isinstance(node, yaml.MappingNode):
                return "union"
        return self.reference(node) or "union"

    def token(self, node: yaml.Node) -> TokenRow | None:
        """Where the row of a token comes from: `{source: ..., force: true}`."""
        fields = self.mapping(node, "token", known=("source", "force"))
        if fields is None:
            return None
        force = self.plain(fields["force"]) if "force" in fields else False
        if not isinstance(force, bool):
            self.problem("force", {"found": self.shown(fields["force"])}, node)
        row = self.token_source(fields["source"]) if "source" in fields else TokenRow()
        return row and replace(row, force=force is True, where=place_of(node))

    def token_source(self, node: yaml.Node) -> TokenRow | None:
        kind = None
        if isinstance(node, yaml.MappingNode):
            kind = next((self.plain(value) for key, value in node.value if key.value == "kind"), None)
        if kind is None:
            model = self.reference(node)
            return TokenRow(model) if model else None
        if kind == "zero":
            self.mapping(node, "zero-row", known=("kind",))
            return TokenRow(zero=True)
        if kind != "model_token":
            self.problem("token-kind", {"name": str(kind), "known": ["model_token", "zero"]}, node)
            return None
        fields = self.mapping(node, "model-token", known=("kind", "model", "token", "token_id"))
        if not fields:
            return None
        if "model" not in fields or ("token" in fields) == ("token_id" in fields):
            self.problem("token-source", {}, node)
            return None
        number = self.plain(fields["token_id"]) if "token_id" in fields else None
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            self.problem("token-id", {"found": self.shown(fields["token_id"])}, fields["token_id"])
            return None
        token = fields["token"].value if "token" in fields else None
        model = self.reference(fields["model"])
        return TokenRow(model, token, number) if model else None

    def chat_template(self, node: yaml.Node | None) -> str | None:
        text = None if node is None else self.text_of(node, "chat-template")
        if text is None or text == "auto" or text in TEMPLATES:
            return text
        if len(text) >= SHORTEST_TEMPLATE and "{" in text:
            return text
        self.problem("chat-template", {"given": text, **suggestion(text, ["auto", *TEMPLATES])}, node)
        return None

    def reference(self, node: yaml.Node | None) -> ModelReference | None:
        if node is None:
            return None
        if isinstance(node, yaml.MappingNode):
            return self.reference_fields(node)
        text = self.text_of(node, "model")
        if text is None:
            return None
        if len(text) > LONGEST_NAME:
            self.problem("model-name", {"given": f"{text[:60]}..."}, node)
            return None
        (name, revision), *adapters = [self.part(part, text, node) for part in split_adapters(text)]
        if not name or not all(adapter for adapter, _ in adapters):
            return None
        return ModelReference(name, revision, tuple(AdapterReference(*adapter) for adapter in adapters))

    def part(self, part: str, text: str, node: yaml.Node) -> tuple[str, str | None]:
        """Name and revision of a base or an adapter; the name is empty if there is a problem."""
        if is_folder(part):
            return part, None
        name, at, revision = part.partition("@")
        if name and (not at or (revision and "@" not in revision)):
            return name, revision or None
        self.problem("model-name", {"given": text}, node)
        return "", None

    def reference_fields(self, node: yaml.MappingNode) -> ModelReference | None:
        """The dict forms: mergekit's `{model: {path, revision}, lora: {path, revision}}`, and with several adapters
        `{model: owner/name, adapters: [{model: owner/name, scale: 0.5}]}`."""
        fields = self.mapping(node, "model", ("model", "lora", "adapters", "override_architecture"))
        if not fields:
            return None
        if "model" not in fields:
            self.problem("no-model", {}, node)
            return None
        base = self.path(fields["model"])
        if "lora" in fields and "adapters" in fields:
            self.problem("lora-or-adapters", {}, fields["lora"])
        adapters = self.sequence(fields.get("adapters"), "adapters", self.adapter)
        if "lora" in fields and (lora := self.path(fields["lora"])):
            adapters = (*adapters, *lora.adapters, AdapterReference(lora.name, lora.revision))
        named = fields.get("override_architecture")
        architecture = self.text_of(named, "model-class") if named else None
        return base and replace(base, adapters=(*base.adapters, *adapters), architecture=architecture)

    def path(self, node: yaml.Node) -> ModelReference | None:
        """A model as text, or as `{path: ..., revision: ...}`."""
        if not isinstance(node, yaml.MappingNode):
            return self.reference(node)
        inner = self.mapping(node, "model-path", known=("path", "revision"))
        if inner is None:
            return None
        if "path" not in inner:
            self.problem("no-path", {}, node)
            return None
        path = self.text_of(inner["path"], "path")
        revision = self.text_of(inner["revision"], "revision") if "revision" in inner else None
        return ModelReference(path, revision) if path else None

    def adapter(self, node: yaml.Node) -> AdapterReference | None:
        """An entry of `adapters`: a name, or `{model: ..., scale: ...}`."""
        scale = 1.0
        if isinstance(node, yaml.MappingNode) and any(key.value == "model" for key, _ in node.value):
            fields = self.mapping(node, "adapter", known=("model", "scale"))
            if not fields or "model" not in fields:
                return None
            scale = self.scale(fields.get("scale"))
            node = fields["model"]
        found = self.path(node)
        if found and found.adapters:
            self.problem("several-adapters", {"given": str(found)}, node)
            return None
        return AdapterReference(found.name, found.revision, scale) if found else None

    def scale(self, node: yaml.Node | None) -> float:
        value = 1.0 if node is None else self.plain(node)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        assert node is not None
        self.problem("scale", {"found": self.shown(node)}, node)
        return 1.0

    # -- parameters ------------------------------------------------------------------------------------

    def parameters(self, node: yaml.Node | None, *, models_own: bool) -> Parameters:
        found: dict[str, ParameterSetting] = {}
        method = self.method
        for name, value in self.pairs(node, "`parameters`"):
            if method is None:  # without a method nothing can be said about its parameters
                continue
            if name.value in method.ignored:
                continue
            parameter = method.parameter(name.value)
            if parameter is None and RENAMED.get(name.value, name.value) in FOR_ALL:
                self.problem("misplaced-key", {"name": name.value, "what": "`parameters`"}, name)
            elif parameter is None and name.value == "filter":
                self.problem("stray-filter", {}, name)
            elif parameter is None and name.value in PARAMETERS:
                self.warn_of_parameter(method, name)
            elif parameter is None and self.holds_anchors(value):
                super().unknown_key(name, value, "`parameters`", tuple(p.name for p in method.parameters))
            elif parameter is None:
                known = suggestion(name.value, [p.name for p in method.parameters])
                values = {"method": method.name, "title": method.title, "name": name.value, **known}
                self.problem("unknown-parameter", values, name)
            elif models_own and not parameter.per_model:
                self.problem("shared-parameter", about(method, parameter), name)
            else:
                before = len(self.problems)
                setting = self.setting(parameter, value)
                # A wrong value is a problem already, and no missing parameter.
                if setting or len(self.problems) > before:
                    found[parameter.name] = setting
        return found

    def setting(self, parameter: Parameter, node: yaml.Node) -> ParameterSetting:
        if isinstance(node, yaml.SequenceNode) and any(isinstance(n, yaml.MappingNode) for n in node.value):
            found = [self.conditional(parameter, item) for item in node.value]
        else:
            found = [self.conditional(parameter, node)]
        return tuple(conditional for conditional in found if conditional)

    def conditional(self, parameter: Parameter, node: yaml.Node) -> ConditionalParameter | None:
        filtered = None
        if isinstance(node, yaml.MappingNode):
            fields = self.mapping(node, "filtered-value", known=("filter", "value"))
            if fields is None:
                return None
            if "value" not in fields:
                self.problem("no-value", {}, node)
                return None
            if "filter" in fields:
                wanted = self.plain(fields["filter"])
                if wanted is not None and not isinstance(wanted, str | int | float):
                    self.problem("filter", {"found": self.shown(fields["filter"])}, fields["filter"])
                filtered = None if wanted is None else str(wanted)
            node = fields["value"]
        if isinstance(node, yaml.SequenceNode):
            anchors = tuple(self.scalar(parameter, item) for item in node.value)
            known = tuple(anchor for anchor in anchors if anchor is not None)
            return ConditionalParameter(known, filtered) if known else None
        value = self.scalar(parameter, node)
        return None if value is None else ConditionalParameter(value, filtered)

    def scalar(self, parameter: Parameter, node: yaml.Node) -> Scalar | None:
        value = self.plain(node)
        if isinstance(value, str) and parameter.kind in ("number", "integer"):
            # YAML 1.1 takes 1e-5 for text.
            value = _number(value)
        if parameter.accepts(value):
            return parameter.convert(value)  # type: ignore[arg-type]
        assert self.method
        nearest = parameter.nearest(value) if parameter.clamps else None
        if nearest is not None:
            values = {"parameter": parameter.name, "title": self.method.title, "found": self.shown(node)}
            self.warn("clamped-value", {**values, "used": f"{nearest:g}"}, node)
            return nearest
        values = {**about(self.method, parameter), "found": self.shown(node)}
        self.problem("parameter-value", values, node)
        return None


def about(method: MergeMethod, parameter: Parameter) -> dict[str, Any]:
    """Values of a problem with a parameter."""
    return {
        "method": method.name,
        "title": method.title,
        "parameter": parameter.name,
        "help": parameter.help,
        "expected": parameter.expected(),
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

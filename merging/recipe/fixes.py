"""Mechanical fixes of a recipe: edits of its text that do what was meant."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import yaml

from checkpoints.problem_texts import WORDING
from checkpoints.problems import Place, Problem
from checkpoints.wording import Template
from checkpoints.yaml import YamlError, documents, plain
from merging.methods import METHODS, MergeMethod
from merging.methods.parameters import Parameter
from merging.recipe.edits import (
    Path,
    cut,
    edited,
    end_of,
    filtered,
    find,
    key_at,
    line,
    moved_into_parameters,
    moved_to_top,
    nodes_at,
    place_of,
    read_name,
    replaced,
    top_line,
    value_at,
    walk,
)
from merging.recipe.patch import patched

# Says which model the named ones were made from; empty if that is unknown.
CommonBase = Callable[[Sequence[str]], str]
# Ends a chain of fixes of which one makes the fault of another.
MOST_FIXES = 50
# Fixes offered at once: a person reads each of them before choosing.
MOST_OFFERED = 8

# What a fix does, in English, by its code.
FIXES: dict[str, Template] = {
    "write": "Change '{instead}' to '{word}'",
    "base": "Add base model {model}",
    "parameter": "Add {name}: {value}",
    "set": "Set {name}: {value}",
    "ranges": "Take {count} {count:layer|layers} from each",
    "range": "End the range at {limit}",
    "remove": "Remove '{name}'",
    "move": "Set '{name}' for all models",
    "into": "Move '{name}' under `parameters:`",
    "top": "Move '{name}' to the top of the recipe",
    "filter": "Apply the filter to {names:and}",
    "filters": "Write one entry for each name",
    "slices": "Write `slices:` with these ranges",
    "union": "Combine the vocabularies",
    "vocabulary": "Keep the base model's vocabulary",
    "tokenizer": "Use the vocabulary of {model}",
    "original": "Use {original}, in full precision",
    "gguf": "Use {file}",
    "method": "Use {title}",
    "drop": "Leave out {model}",
    "tabs": "Replace tabs by spaces",
    "colons": "Put a space after each colon",
}


@dataclass(frozen=True)
class Fix:
    """What can be done about a problem.

    Args:
        code: key of its words in FIXES
        values: what its words are filled with
        recipe: the text after it
        is_choice: there are others for the same problem, which make another model
    """

    code: str
    values: Mapping[str, Any]
    recipe: str
    is_choice: bool = field(default=False)

    @property
    def title(self) -> str:
        """What it does, in English."""
        return WORDING.sentence(FIXES[self.code], self.values)


def fixes(recipe: str, problems: Sequence[Problem], common_base: CommonBase) -> tuple[Fix, ...]:
    """What can be done at once, in the order of the problems, each edit once, and no more than `MOST_OFFERED`.

    Args:
        recipe: the text
        problems: of its plan, and its warnings
        common_base: says which model the named ones were made from; asked only if the recipe lacks a base
    """
    readable = (fix for fix in _edits(recipe, problems, common_base) if _is_yaml(fix.recipe))
    return tuple(islice(readable, MOST_OFFERED))


def _edits(recipe: str, problems: Sequence[Problem], common_base: CommonBase) -> Iterator[Fix]:
    """Fixes as `fixes` finds them, which may lead to a text that is not YAML."""
    try:
        trees = documents(recipe).nodes
    except YamlError:
        yield from _of_text(recipe)
        return
    seen = {recipe}
    for problem in problems:
        tree = _document(trees, problem.where)
        if tree is None:
            continue
        for fix in _Fixer(recipe, tree, problem, common_base).fixes():
            if fix.recipe not in seen:
                seen.add(fix.recipe)
                yield fix


def _of_text(text: str) -> Iterator[Fix]:
    """Edits of a text that is not YAML: what people type by mistake, and YAML does not allow."""
    lines = text.split("\n")
    indents = [re.match(r"[ \t]*", line) for line in lines]
    spaced = [
        line[: indent.end()].replace("\t", "  ") + line[indent.end() :]
        for line, indent in zip(lines, indents, strict=True)
        if indent
    ]
    if spaced != lines:
        yield Fix("tabs", {}, "\n".join(spaced))
    apart = [re.sub(r"^([ -]*\w+):(?=[^\s/])", r"\1: ", line) for line in lines]
    if apart != lines:
        yield Fix("colons", {}, "\n".join(apart))


def _document(trees: Sequence[yaml.Node], where: Place | str) -> yaml.MappingNode | None:
    """The document of a chain that a problem is in; of what names no place, the only one."""
    begun = [tree for tree in trees if isinstance(where, Place) and tree.start_mark.line < where.line]
    found = begun[-1] if begun else trees[0] if len(trees) == 1 else None
    return found if isinstance(found, yaml.MappingNode) else None


def _is_yaml(text: str) -> bool:
    """Whether an edit led to a text that can be read: YAML has forms in which an entry cannot be cut or moved so."""
    try:
        return bool(documents(text).nodes)
    except YamlError:
        return False


def mended(
    recipe: str, problems_of: Callable[[str], Sequence[Problem]], common_base: CommonBase
) -> tuple[str, tuple[Fix, ...]]:
    """A recipe after all fixes between which there is nothing to choose.

    Args:
        recipe: the text
        problems_of: says what is wrong with a text
        common_base: see `fixes`

    Returns:
        The text, and the fixes in the order in which they were made.
    """
    done: list[Fix] = []
    seen = {recipe}
    while len(done) < MOST_FIXES:
        offered = _edits(recipe, problems_of(recipe), common_base)
        sure = [fix for fix in offered if not fix.is_choice and fix.recipe not in seen]
        # What is misspelt is there: it is not to be added because it seems to be missing.
        sure.sort(key=lambda fix: fix.code != "write")
        fix = next((fix for fix in sure if _is_yaml(fix.recipe)), None)
        if fix is None:
            break
        recipe = fix.recipe
        seen.add(recipe)
        done.append(fix)
    return recipe, tuple(done)


class _Fixer:
    """Finds the fixes of one problem.

    Args:
        text: the recipe
        tree: its root
        problem: to be fixed
        common_base: see `fixes`
    """

    def __init__(self, text: str, tree: yaml.MappingNode, problem: Problem, common_base: CommonBase):
        self.text = text
        self.tree = tree
        self.problem = problem
        self.common_base = common_base
        self.method = METHODS.get(read_name(tree, "merge_method"))

    def fixes(self) -> Iterator[Fix]:
        several = SEVERAL_WAYS.get(self.problem.code)
        if several:
            yield from several(self)
            return
        nodes = nodes_at(self.tree, self.problem.where)
        near = self.problem.values.get("near")
        if near and nodes and isinstance(nodes[-1], yaml.ScalarNode):
            yield self.rewritten(nodes[-1], near)
            return
        find_fix = WAYS.get(self.problem.code)
        fix = find_fix(self) if find_fix else None
        if fix:
            yield fix

    def fix(self, text: str | None, code: str, **values: Any) -> Fix | None:
        return None if text is None else Fix(code, values, text)

    def rewritten(self, node: yaml.Node, word: str) -> Fix:
        text = edited(self.text, [replaced(node, word)])
        return Fix("write", {"word": word, "instead": str(node.value)[:40]}, text)

    # -- keys ------------------------------------------------------------------------------------------

    def removed(self) -> Fix | None:
        """Without the entry whose key is at fault."""
        path = key_at(self.tree, self.problem.where)
        span = cut(self.text, self.tree, path) if path else None
        return self.fix(edited(self.text, [span]), "remove", name=path[-1]) if path and span else None

    def moved_to_top(self) -> Fix | None:
        path = key_at(self.tree, self.problem.where)
        return self.fix(moved_to_top(self.text, self.tree, path), "top", name=path[-1]) if path else None

    def moved_into_parameters(self) -> Fix | None:
        """A parameter that is beside `parameters:`, put under it; one for all models, under the recipe's."""
        path = key_at(self.tree, self.problem.where)
        parameter = path and self.method and self.method.parameter(str(path[-1]))
        if not path or not parameter:
            return None
        is_model = find(self.tree, (*path[:-1], "model")) is not None
        owner = () if is_model and not parameter.per_model else path[:-1]
        return self.fix(moved_into_parameters(self.text, self.tree, path, owner), "into", name=parameter.name)

    def moved_up(self) -> Fix | None:
        """A value that one model has for all, said for all."""
        path = key_at(self.tree, self.problem.where)
        if not path:
            return None
        text = moved_into_parameters(self.text, self.tree, path, ())
        span = cut(self.text, self.tree, path)
        if text is None and span and find(self.tree, ("parameters", path[-1])) is not None:
            text = edited(self.text, [span])
        return self.fix(text, "move", name=path[-1])

    def revision(self) -> Fix | None:
        """The revision as part of the model's name: `owner/name@revision`."""
        return self.named(_with_revision)

    def adapter(self) -> Fix | None:
        """The adapter as part of the model's name: `owner/name+owner/adapter`."""
        return self.named(lambda model, adapter: f"{model}+{adapter}")

    def named(self, written: Callable[[str, str], str | None]) -> Fix | None:
        """What is beside a model, as part of its name.

        Args:
            written: makes the name of the model's and of what is beside it; None if it cannot
        """
        path = key_at(self.tree, self.problem.where)
        if not path:
            return None
        beside, owner = find(self.tree, path), path[:-1]
        model = find(self.tree, (*owner, "model")) or find(self.tree, (*owner, "base_model"))
        span = cut(self.text, self.tree, path)
        if not isinstance(model, yaml.ScalarNode) or not isinstance(beside, yaml.ScalarNode) or span is None:
            return None
        name = written(model.value, beside.value) if beside.value else None
        if name is None:
            return None
        raw = self.text[model.start_mark.index : model.end_mark.index].replace(model.value, name)
        text = edited(self.text, [replaced(model, raw), span])
        return self.fix(text, "write", word=name, instead=model.value)

    def vocabulary_source(self) -> Fix | None:
        """`tokenizer: union` as `tokenizer_source: union`."""
        path = value_at(self.tree, self.problem.where)
        key = next((key for key, _ in self.tree.value if path == ("tokenizer",) == (key.value,)), None)
        given = find(self.tree, ("tokenizer",))
        if key is None or not isinstance(given, yaml.ScalarNode) or not given.value:
            return None
        return self.rewritten(key, "tokenizer_source")

    def filter_applied(self) -> Fix | None:
        """A filter that is beside parameters, or beside a model, put on each of the parameters."""
        path = key_at(self.tree, self.problem.where)
        if not path:
            return None
        owner = path[:-1] if path[-2:-1] == ("parameters",) else (*path[:-1], "parameters")
        found = filtered(self.text, self.tree, path, owner)
        return self.fix(found[0], "filter", names=found[1]) if found else None

    def filters_apart(self) -> Fix | None:
        """An entry for each of the names that one filter lists."""
        path = value_at(self.tree, self.problem.where)
        names, entry = find(self.tree, path or ()), find(self.tree, (path or ())[:-1])
        value = find(entry, ("value",))
        if not isinstance(names, yaml.SequenceNode) or value is None or entry is None:
            return None
        if not names.value or not all(isinstance(name, yaml.ScalarNode) for name in names.value):
            return None
        written = self.text[value.start_mark.index : end_of(value)]
        if "\n" in written or not path:
            return None
        entries = [f"{{filter: {name.value}, value: {written}}}" for name in names.value]
        around = find(self.tree, path[:-2])
        listed = f"[{', '.join(entries)}]"
        if isinstance(around, yaml.SequenceNode):
            indent = " " * around.start_mark.column
            listed = (", " if around.flow_style else f"\n{indent}- ").join(entries)
        span = entry.start_mark.index, end_of(entry), listed
        return self.fix(edited(self.text, [span]), "filters")

    def one_list(self) -> Fix | None:
        """Without one of two lists of models."""
        path = value_at(self.tree, self.problem.where) or ()
        span = cut(self.text, self.tree, path[:1])
        return self.fix(edited(self.text, [span]), "remove", name=path[0]) if span else None

    # -- models ----------------------------------------------------------------------------------------

    def base(self) -> Fix | None:
        """A base model: for task vectors what the models were made from, else the first of them."""
        names = self.names()
        if self.method is None or not names:
            return None
        base = (self.common_base(names) if self.method.base == "subtracted" else "") or names[0]
        written = line("base_model", base)
        for key, value in self.tree.value:
            if key.value == "base_model":  # which is empty, or no name
                span = (key.start_mark.index, end_of(value), written)
                return self.fix(edited(self.text, [span]), "base", model=base)
        return self.with_line("merge_method", written, "base", model=base)

    def vocabularies(self) -> Iterator[Fix]:
        """The ways to one vocabulary: of all models, the base's, or that of another model that has one of its own."""

        def ways() -> Iterator[tuple[str, str, dict[str, Any]]]:
            yield "union", "union", {}
            if base:
                yield "base", "vocabulary", {}
            seen = {known.get(base)}
            for name, size in known.items():
                if size not in seen:
                    seen.add(size)
                    yield name, "tokenizer", {"model": name}

        base = read_name(self.tree, "base_model")
        sizes = {part["model"]: (part["rows"], part["tokens"]) for part in self.problem.values["tokenizers"]}
        known = {name: sizes[name] for name in [base, *self.names()] if name in sizes}
        for source, code, values in ways():
            span = top_line(self.text, self.tree, "base_model", line("tokenizer_source", source))
            if span:
                yield Fix(code, values, edited(self.text, [span]), is_choice=True)

    def other_number(self) -> Iterator[Fix]:
        """The ways out of too many models: a method that takes them all, or without the last one; out of a single model
        beside a base: a method that blends the two.
        """
        names, given = self.names(), plain(self.tree)
        if not names or self.method is None or self.method.max_models == 1:
            return
        if self.problem.values["given"] <= self.problem.values["wanted"]:
            yield from self.with_base_as_model(names, given)
            return
        method = _for_several(self.method)
        yield Fix(
            "method", {"title": method.title}, patched(self.text, _under(method, given)), is_choice=True
        )
        base = read_name(self.tree, "base_model")
        place = max((i for i, name in enumerate(names) if name != base), default=None)
        if place is not None and len(names) == len(given["models"]):
            fewer = [entry for i, entry in enumerate(given["models"]) if i != place]
            text = patched(self.text, given | {"models": fewer})
            yield Fix("drop", {"model": names[place]}, text, is_choice=True)

    def with_base_as_model(self, names: list[str], given: Mapping[str, Any]) -> Iterator[Fix]:
        """The one model and the base that would have been subtracted from it, halfway between them."""
        base, slerp = read_name(self.tree, "base_model"), METHODS["slerp"]
        fine_tuned = [name for name in names if name != base]
        if self.method is None or self.method.base != "subtracted" or not base or len(fine_tuned) != 1:
            return
        models = [{"model": base}, {"model": fine_tuned[0]}]
        text = patched(self.text, {**_under(slerp, given), "models": models})
        yield Fix("method", {"title": slerp.title}, text, is_choice=True)

    def with_line(self, after: str, line: str, code: str, **values: Any) -> Fix | None:
        span = top_line(self.text, self.tree, after, line)
        return self.fix(edited(self.text, [span]), code, **values) if span else None

    def names(self) -> list[str]:
        """The models of a recipe without slices, as far as they are given by name."""
        models = find(self.tree, ("models",))
        entries = range(len(models.value)) if isinstance(models, yaml.SequenceNode) else ()
        return [name for i in entries if (name := read_name(self.tree, "models", i, "model"))]

    def with_base(self) -> Fix | None:
        """An adapter alone, on the base that it names."""
        base, adapter = self.problem.values["base"], self.problem.values["adapter"]
        named = [n for _, n in walk(self.tree) if isinstance(n, yaml.ScalarNode) and n.value == adapter]
        if not base or not named:
            return None
        spans = {replaced(node, f"{base}+{adapter}") for node in named}
        return self.fix(edited(self.text, spans), "write", word=f"{base}+{adapter}", instead=adapter)

    def original(self) -> Fix | None:
        """The model that a quantized one was made from, in its place; a revision named that one's commits."""
        model, original = str(self.problem.values["model"]), self.problem.values.get("original")
        return (
            self.renamed(model, lambda _: str(original), "original", original=original) if original else None
        )

    def similar(self) -> Fix | None:
        """The model that was meant by a name that the Hub does not have, which may be an adapter's."""
        model, similar = str(self.problem.values["model"]), self.problem.values.get("similar")
        return (
            self.renamed(
                model, lambda rest: f"{similar}{rest}", "write", "+", word=similar, instead=model[:40]
            )
            if similar
            else None
        )

    def renamed(
        self, model: str, name: Callable[[str], str], code: str, before: str = "", **values: Any
    ) -> Fix | None:
        """Another name wherever a model is named.

        Args:
            name: makes it, given what stood behind the model's name: its revision with an "@" before it, or nothing
            before: what may be before the name, besides a quote
        """
        named = re.compile(rf"(?<![^'\"{before}]){re.escape(model)}(@[^+'\"]*)?(?=[+:'\"]|$)")
        spans = []
        for _, node in walk(self.tree):
            raw = self.text[node.start_mark.index : node.end_mark.index]
            if isinstance(node, yaml.ScalarNode) and named.search(raw):
                spans.append(replaced(node, named.sub(lambda match: name(match[1] or ""), raw)))
        return self.fix(edited(self.text, spans), code, **values) if spans else None

    def gguf_file(self) -> Fix | None:
        """The largest of a repository's GGUF models, in the repository's place."""
        model, file = str(self.problem.values["model"]), str(self.problem.values["file"])
        return self.renamed(model, lambda revision: f"{model}/{file}{revision}", "gguf", file=file)

    def passthrough(self) -> Fix | None:
        """The method that gives a base under its adapter."""
        node = find(self.tree, ("merge_method",))
        return self.rewritten(node, "passthrough") if node is not None else None

    # -- parameters ------------------------------------------------------------------------------------

    def parameter(self) -> Fix | None:
        """A required parameter, given once for the whole recipe, in the middle of its range."""
        parameter = self.method and self.method.parameter(self.problem.values["parameter"])
        if not parameter:
            return None
        values = {"name": parameter.name, "value": parameter.initial}
        entry = f"{parameter.name}: {parameter.initial}"
        given = find(self.tree, ("parameters",))
        if given is None:
            return self.with_line("", f"parameters:\n  {entry}", "parameter", **values)
        if not isinstance(given, yaml.MappingNode) or given.flow_style or not given.value:
            return None
        start = given.value[0][0].start_mark
        span = start.index, start.index, f"{entry}\n{' ' * start.column}"
        return self.fix(edited(self.text, [span]), "parameter", **values)

    def unnormalized(self) -> Fix | None:
        """Weights that add up to zero, taken as they are: a change that is taken off again is a usual use of them."""
        wrong, given = self.problem.values["wrong"], plain(self.tree)
        is_cancelled = isinstance(wrong, Mapping) and wrong.get("phrase") == "weights-cancel"
        parameters = given.get("parameters") or {}
        if not is_cancelled or not self.method or self.method.base != "subtracted" or "slices" in given:
            return None
        if not isinstance(parameters, Mapping):
            return None
        text = patched(self.text, given | {"parameters": {**parameters, "normalize": False}})
        return self.fix(text, "set", name="normalize", value="false")

    def within_range(self) -> Fix | None:
        """The nearest value that the parameter can have."""
        nodes = nodes_at(self.tree, self.problem.where)
        path = next((path for path, found in walk(self.tree) if nodes and found is nodes[-1]), ())
        parameter = self._parameter_on(path)
        try:
            value = float(nodes[-1].value)
        except (IndexError, TypeError, ValueError):
            return None
        nearest = parameter.nearest(value) if parameter and math.isfinite(value) else None
        if parameter and (parameter.low, parameter.high) == (0, 1) and 10 <= value <= 100:
            nearest = value / 100  # a percentage
        return None if nearest is None else self.rewritten(nodes[-1], f"{nearest:g}")

    def _parameter_on(self, path: Path) -> Parameter | None:
        """The parameter whose value, or a part of it, is at a path."""
        names = (step for step in reversed(path) if isinstance(step, str))
        found = (self.method.parameter(name) for name in names) if self.method else iter(())
        return next((parameter for parameter in found if parameter), None)

    # -- layers ----------------------------------------------------------------------------------------

    def slices(self) -> Fix | None:
        """A list of models that all have a range, as the sources of a slice."""
        models = find(self.tree, ("models",))
        key = next((key for key, _ in self.tree.value if key.value == "models"), None)
        if not isinstance(models, yaml.SequenceNode) or models.flow_style or key is None:
            return None
        if not all(find(entry, ("layer_range",)) for entry in models.value):
            return None
        start = self.text.rfind("\n", 0, models.start_mark.index) + 1
        end, column = end_of(models), models.start_mark.column
        lines = [f"  {text}" if text.strip() else text for text in self.text[start:end].split("\n")]
        sources = "\n".join([f"{' ' * column}- sources:", *lines])
        return self.fix(edited(self.text, [replaced(key, "slices"), (start, end, sources)]), "slices")

    def equal_ranges(self) -> Fix | None:
        """Every range of a slice as long as the shortest."""
        nodes = nodes_at(self.tree, self.problem.where)
        ranges = _ranges(nodes[0] if nodes else None)
        if len(ranges) < 2:
            return None
        length = min(end - start for _, start, end in ranges)
        spans = [
            self._range(node, start, start + length) for node, start, end in ranges if end - start != length
        ]
        return self.fix(edited(self.text, spans), "ranges", count=length)

    def shorter_range(self) -> Fix | None:
        """The range of the source at fault, ended where its model ends."""
        path, limit = place_of(self.tree, self.problem.where), self.problem.values["layers"]
        if path is None or path[:1] != ("slices",):
            return None
        node = find(self.tree, (*path[:4], "layer_range"))
        ranges = _ranges(find(self.tree, path[:2]))
        start = next((start for found, start, _ in ranges if found is node), limit)
        if node is None or start >= limit:
            return None
        return self.fix(edited(self.text, [self._range(node, start, limit)]), "range", limit=limit)

    def _range(self, node: yaml.Node, start: int, end: int) -> tuple[int, int, str]:
        """Another range. A block ends where the next line begins; its line end and the indent after it are kept."""
        text = self.text[node.start_mark.index : node.end_mark.index]
        return replaced(node, f"[{start}, {end}]{text[len(text.rstrip()) :]}")


def _with_revision(model: str, wanted: str) -> str | None:
    """A model's name at a revision; None if it has another one."""
    base, plus, adapters = model.partition("+")
    name, _, revision = base.partition("@")
    return f"{name}@{wanted}{plus}{adapters}" if revision in ("", wanted) else None


def _ranges(part: yaml.Node | None) -> list[tuple[yaml.Node, int, int]]:
    """The layer ranges of a slice's sources, with their nodes."""
    sources = find(part, ("sources",))
    found: list[tuple[yaml.Node, int, int]] = []
    for source in sources.value if isinstance(sources, yaml.SequenceNode) else ():
        node = find(source, ("layer_range",))
        if isinstance(node, yaml.SequenceNode) and len(node.value) == 2:
            try:
                found.append((node, int(node.value[0].value), int(node.value[1].value)))
            except (TypeError, ValueError):
                continue
    return found


def _for_several(method: MergeMethod) -> MergeMethod:
    """The method for any number of models that is most like one for a few: it has the other's name in its own."""
    several = [other for other in METHODS.values() if other.max_models is None and other.base != "subtracted"]
    return next((other for other in several if method.name in other.name), METHODS["linear"])


def _under(method: MergeMethod, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's data under another method: parameters that it lacks are left out, those that it needs are added."""
    given = recipe.get("parameters")
    kept = {name: value for name, value in given.items() if method.parameter(str(name))} if given else {}
    needed = {p.name: p.initial for p in method.parameters if p.required}
    changed = {**recipe, "merge_method": method.name, "parameters": {**needed, **kept}}
    left_out = {"parameters"} if not changed["parameters"] else set()
    if not method.takes_base:
        left_out.add("base_model")
    return {key: value for key, value in changed.items() if key not in left_out}


# By the code of a problem: ways between which there is a choice.
SEVERAL_WAYS: dict[str, Callable[[_Fixer], Iterator[Fix]]] = {
    "number-of-models": _Fixer.other_number,
    "too-few-models": _Fixer.other_number,
    "too-many-models": _Fixer.other_number,
    "vocabulary": _Fixer.vocabularies,
}

# By the code of a problem.
WAYS: dict[str, Callable[[_Fixer], Fix | None]] = {
    "adapter": _Fixer.with_base,
    "adapter-beside-model": _Fixer.adapter,
    "adapter-on-base": _Fixer.passthrough,
    "dequantized": _Fixer.original,
    "filter": _Fixer.filters_apart,
    "gguf-not-understood": _Fixer.original,
    "layer-range": _Fixer.shorter_range,
    "layers-of-models": _Fixer.slices,
    "misplaced-key": _Fixer.moved_to_top,
    "misplaced-parameter": _Fixer.moved_into_parameters,
    "missing-parameter": _Fixer.parameter,
    "model-not-found": _Fixer.similar,
    "models-or-slices": _Fixer.one_list,
    "no-base": _Fixer.base,
    "not-a-mapping": _Fixer.vocabulary_source,
    "parameter-value": _Fixer.within_range,
    "parameters": _Fixer.unnormalized,
    "quantized": _Fixer.original,
    "revision-beside-model": _Fixer.revision,
    "several-gguf": _Fixer.gguf_file,
    "shared-parameter": _Fixer.moved_up,
    "stray-filter": _Fixer.filter_applied,
    "unequal-ranges": _Fixer.equal_ranges,
    "unknown-key": _Fixer.removed,
    "unknown-parameter": _Fixer.removed,
    "unknown-quantization": _Fixer.original,
}

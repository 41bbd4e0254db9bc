"""Mechanical fixes of a recipe: edits of its text that leave every other character, and every comment, alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import yaml

from checkpoints.problems import Place, Problem
from merging import METHODS
from merging.recipe.yaml import Loader
from ui.languages.translate import t
from ui.recipe.form_state import dump, initial

CommonBase = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Fix:
    """A button's title, and the recipe after it was pressed."""

    title: str
    recipe: str


def fixes(recipe: str, problems: Sequence[Problem], common_base: CommonBase) -> tuple[Fix, ...]:
    """What can be done by a button, in the order of the problems, each edit once.

    Args:
        recipe: the text
        problems: of its plan
        common_base: says which model the named ones were made from; asked only if the recipe lacks a base
    """
    try:
        tree = yaml.compose(recipe, Loader=Loader)
    except (yaml.YAMLError, RecursionError):
        return ()
    if not isinstance(tree, yaml.MappingNode):
        return ()
    found: dict[str, Fix] = {}
    for problem in problems:
        if problem.code == "vocabulary":
            offered = _vocabularies(recipe, tree, problem)
        else:
            offered = [_fix(recipe, tree, problem, common_base)]
        for fix in offered:
            if fix and fix.recipe != recipe:
                found.setdefault(fix.recipe, fix)
    return tuple(found.values())


def _fix(recipe: str, tree: yaml.MappingNode, problem: Problem, common_base: CommonBase) -> Fix | None:
    nodes = nodes_at(tree, problem.where)
    node = nodes[0] if nodes else None
    if nodes and isinstance(nodes[-1], yaml.ScalarNode) and (near := problem.values.get("near")):
        title = t("fix.write", word=near, instead=nodes[-1].value[:40])
        return Fix(title, _replaced(recipe, nodes[-1], near))
    match problem.code:
        case "no-base":
            return _base(recipe, tree, common_base)
        case "missing-parameter":
            return _parameter(recipe, tree, problem)
        case "unequal-ranges":
            return _equal_ranges(recipe, node)
        case "layer-range":
            return _shorter_range(recipe, tree, problem, problem.values["layers"])
        case "adapter" if base := problem.values["base"]:
            adapter = problem.values["adapter"]
            return _instead_of(recipe, tree, adapter, f"{base}+{adapter}")
        case "unknown-parameter" | "unknown-key" | "layers-of-models" if node:
            return _removed(recipe, tree, node)
        case "shared-parameter" if node:
            return _moved_up(recipe, tree, node)
        case "parameter-value" if nodes:
            return _within_range(recipe, tree, nodes[-1])
        case "models-or-slices" if key := _key_of(tree, node):
            return Fix(t("fix.remove", name=key), _without(recipe, tree, key))
    return None


def place_of(tree: yaml.Node | None, where: Place | str) -> tuple[str | int, ...] | None:
    """The path to the place that a problem names, such as ("models", 1, "model"); None if it names none."""
    if tree is None or not isinstance(where, Place):
        return None
    line, column = where.line - 1, where.column - 1
    best: tuple[str | int, ...] | None = None
    for path, node in _walk(tree):
        start, end = node.start_mark, node.end_mark
        if (start.line, start.column) <= (line, column) <= (end.line, end.column):
            best = path  # the walk goes inwards
    return best


def read_name(tree: yaml.Node | None, *path: str | int) -> str:
    """The text of the scalar at a path; empty if there is none."""
    for step in path:
        if isinstance(step, str):
            tree = _value(tree, step)
        elif isinstance(tree, yaml.SequenceNode) and step < len(tree.value):
            tree = tree.value[step]
    return str(tree.value) if isinstance(tree, yaml.ScalarNode) else ""


def nodes_at(tree: yaml.Node, where: Place | str) -> list[yaml.Node]:
    """The keys and values that begin at a place, from the outermost to the innermost."""
    if not isinstance(where, Place):
        return []
    place = where.line - 1, where.column - 1
    found = [node for _, node in _walk(tree) if (node.start_mark.line, node.start_mark.column) == place]
    return found[1:] if len(found) > 1 and found[0] is tree else found


def _walk(
    node: yaml.Node, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], yaml.Node]]:
    yield path, node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _walk(item, (*path, number))


def _value(tree: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = tree.value if isinstance(tree, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _key_of(tree: yaml.MappingNode, node: yaml.Node | None) -> str | None:
    """The top-level key that a node is, or is the value of."""
    return next((str(key.value) for key, value in tree.value if node in (key, value)), None)


def _replaced(recipe: str, node: yaml.Node, written: str) -> str:
    return recipe[: node.start_mark.index] + written + recipe[node.end_mark.index :]


def _without(recipe: str, tree: yaml.MappingNode, key: str) -> str:
    """The text without one top-level key; to its own line, or to the next key's."""
    if tree.flow_style:
        return recipe
    starts = [name.start_mark.index for name, _ in tree.value] + [len(recipe)]
    number = next(i for i, (name, _) in enumerate(tree.value) if name.value == key)
    return recipe[: starts[number]] + recipe[starts[number + 1] :]


def _with_line(recipe: str, tree: yaml.MappingNode, after: str, line: str) -> str:
    """The text with a top-level line after the (one-line) value of a key, or at the end."""
    value = _value(tree, after)
    if tree.flow_style:
        return recipe
    if value is None:
        return f"{recipe.rstrip()}\n{line}\n"
    end = recipe.find("\n", value.end_mark.index)
    if end < 0:
        return f"{recipe}\n{line}\n"
    return f"{recipe[: end + 1]}{line}\n{recipe[end + 1 :]}"


def _base(recipe: str, tree: yaml.MappingNode, common_base: CommonBase) -> Fix | None:
    """A base model: for task vectors what the models were made from, else the first of them."""
    method = METHODS.get(read_name(tree, "merge_method"))
    names = _names(tree)
    if method is None or not names:
        return None
    base = (common_base(names) if method.base == "subtracted" else "") or names[0]
    line = dump({"base_model": base}).strip()
    return Fix(t("fix.base", model=base), _with_line(recipe, tree, "merge_method", line))


def _vocabularies(recipe: str, tree: yaml.MappingNode, problem: Problem) -> list[Fix | None]:
    """The ways to one vocabulary: of all models, the base's, or that of another model that has one of its own."""

    def with_source(source: str) -> str:
        return _with_line(recipe, tree, "base_model", dump({"tokenizer_source": source}).strip())

    base = read_name(tree, "base_model")
    found: list[Fix | None] = [Fix(t("fix.union"), with_source("union"))]
    if base:
        found.append(Fix(t("fix.vocabulary"), with_source("base")))
    sizes = {part["model"]: (part["rows"], part["tokens"]) for part in problem.values["tokenizers"]}
    known = {name: sizes[name] for name in [base, *_names(tree)] if name in sizes}
    seen = {known.get(base)}
    for name, size in known.items():
        if size not in seen:
            seen.add(size)
            found.append(Fix(t("fix.tokenizer", model=name), with_source(name)))
    return found


def _names(tree: yaml.MappingNode) -> list[str]:
    """The models of a recipe without slices, as far as they stand there as a name."""
    models = _value(tree, "models")
    entries = range(len(models.value)) if isinstance(models, yaml.SequenceNode) else ()
    return [name for i in entries if (name := read_name(tree, "models", i, "model"))]


def _parameter(recipe: str, tree: yaml.MappingNode, problem: Problem) -> Fix | None:
    """A required parameter, said once for the whole recipe, in the middle of its range."""
    name = problem.values["parameter"]
    method = METHODS.get(read_name(tree, "merge_method"))
    parameter = method.parameter(name) if method else None
    if parameter is None:
        return None
    value = initial(parameter)
    title = t("fix.parameter", name=name, value=value)
    said = _value(tree, "parameters")
    if said is None:
        return Fix(title, _with_line(recipe, tree, "", f"parameters:\n  {name}: {value}"))
    if not isinstance(said, yaml.MappingNode) or said.flow_style or not said.value:
        return None
    start = said.value[0][0].start_mark
    indent = " " * start.column
    return Fix(title, f"{recipe[: start.index]}{name}: {value}\n{indent}{recipe[start.index :]}")


def _instead_of(recipe: str, tree: yaml.Node, name: str, written: str) -> Fix | None:
    """Another text wherever a model of this name is named."""
    named = [n for _, n in _walk(tree) if isinstance(n, yaml.ScalarNode) and n.value == name]
    for node in sorted(named, key=lambda it: -it.start_mark.index):
        recipe = _replaced(recipe, node, written)
    return Fix(t("fix.write", word=written, instead=name), recipe) if named else None


def _removed(recipe: str, tree: yaml.Node, node: yaml.Node) -> Fix | None:
    """Without the entry whose key or value this is."""
    path = next((path for path, found in _walk(tree) if found is node), ())
    text = without_entry(recipe, tree, path)
    return None if text is None else Fix(t("fix.remove", name=path[-1]), text)


def without_entry(recipe: str, tree: yaml.Node, path: Sequence[str | int]) -> str | None:
    """The text without one entry of a mapping, and without mappings that held nothing else; None: it cannot be cut."""
    above: list[yaml.Node] = [tree]
    for step in path[:-1]:
        here = above[-1]
        found = _value(here, step) if isinstance(step, str) else here.value[step]
        if not isinstance(found, yaml.Node):
            return None
        above.append(found)
    if not path or not isinstance(above[-1], yaml.MappingNode):
        return None
    pairs = above[-1].value
    if len(pairs) == 1:
        return without_entry(recipe, tree, path[:-1])
    number = next((i for i, (key, _) in enumerate(pairs) if key.value == path[-1]), None)
    if number is None:
        return None
    start = pairs[number][0].start_mark.index
    if number + 1 < len(pairs):
        return recipe[:start] + recipe[pairs[number + 1][0].start_mark.index :]
    before = end_of(pairs[number - 1][1]) if above[-1].flow_style else recipe.rfind("\n", 0, start)
    return recipe[:before] + recipe[end_of(pairs[number][1]) :]


def _moved_up(recipe: str, tree: yaml.MappingNode, node: yaml.Node) -> Fix | None:
    """A value that one model says for all, said for all."""
    path = next((path for path, found in _walk(tree) if found is node), ())
    text = without_entry(recipe, tree, path)
    value = next((found for place, found in _walk(tree) if place == path and found is not node), None)
    if text is None or not isinstance(value, yaml.ScalarNode):
        return None
    title = t("fix.move", name=path[-1])
    said = _value(tree, "parameters")
    if said is None:
        return Fix(title, f"{text.rstrip()}\nparameters:\n  {path[-1]}: {value.value}\n")
    if _value(said, str(path[-1])) is not None:
        return Fix(title, text)
    return None  # the button for what is missing puts it among the others


def _within_range(recipe: str, tree: yaml.MappingNode, node: yaml.Node) -> Fix | None:
    """The nearest value that the parameter can have."""
    method = METHODS.get(read_name(tree, "merge_method"))
    path = next((path for path, found in _walk(tree) if found is node), ())
    named = (method.parameter(step) for step in reversed(path) if isinstance(step, str)) if method else ()
    parameter = next((found for found in named if found), None)
    try:
        value = float(node.value)
    except (TypeError, ValueError):
        return None
    if parameter is None or parameter.low is None or parameter.high is None or not math.isfinite(value):
        return None
    nearest = min(max(value, parameter.low), parameter.high)
    if parameter.kind == "integer":
        nearest = round(nearest)
    word = f"{nearest:g}"
    return Fix(t("fix.write", word=word, instead=node.value[:40]), _replaced(recipe, node, word))


def end_of(node: yaml.Node) -> int:
    """Where a node's text ends; PyYAML ends a block where the next one begins, comments between them included."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return end_of(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _ranges(part: yaml.Node | None) -> list[tuple[yaml.Node, int, int]]:
    """The layer ranges of a slice's sources, with their nodes."""
    sources = _value(part, "sources")
    found: list[tuple[yaml.Node, int, int]] = []
    for source in sources.value if isinstance(sources, yaml.SequenceNode) else ():
        node = _value(source, "layer_range")
        if isinstance(node, yaml.SequenceNode) and len(node.value) == 2:
            try:
                found.append((node, int(node.value[0].value), int(node.value[1].value)))
            except (TypeError, ValueError):
                continue
    return found


def _equal_ranges(recipe: str, part: yaml.Node | None) -> Fix | None:
    """Every range of a slice as long as the shortest."""
    ranges = _ranges(part)
    if len(ranges) < 2:
        return None
    length = min(end - start for _, start, end in ranges)
    for node, start, end in sorted(ranges, key=lambda it: -it[0].start_mark.index):
        if end - start != length:
            recipe = _replaced(recipe, node, f"[{start}, {start + length}]{_newline(recipe, node)}")
    return Fix(t("fix.ranges", count=length), recipe)


def _shorter_range(recipe: str, tree: yaml.MappingNode, problem: Problem, limit: int) -> Fix | None:
    """The range of the source at fault, ended where its model ends."""
    path = place_of(tree, problem.where)
    if path is None or path[:1] != ("slices",):
        return None
    part: yaml.Node = _value(tree, "slices").value[path[1]]  # type: ignore[union-attr]
    source = _value(part, "sources").value[path[3]]  # type: ignore[union-attr]
    node = _value(source, "layer_range")
    found = next(((n, start) for n, start, _ in _ranges(part) if n is node), None)
    if found is None or found[1] >= limit:
        return None
    written = f"[{found[1]}, {limit}]{_newline(recipe, found[0])}"
    return Fix(t("fix.range", limit=limit), _replaced(recipe, found[0], written))


def _newline(recipe: str, node: yaml.Node) -> str:
    """A block sequence ends where the next line begins: its line end, and the indent behind, are kept."""
    text = recipe[node.start_mark.index : node.end_mark.index]
    return text[len(text.rstrip()) :]

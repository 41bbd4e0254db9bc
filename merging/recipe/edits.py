"""Edits of a recipe's text that leave every other character, and every comment, alone.

An edit is made of spans: `(start, end, written)` puts a text in the place of the characters from start to end.
A path leads to an entry: `("models", 1, "model")`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from checkpoints.problems import Place
from checkpoints.yaml import plain

Path = tuple[str | int, ...]
Span = tuple[int, int, str]


def edited(text: str, spans: Iterable[Span]) -> str:
    """The text after an edit; spans do not overlap."""
    for start, end, written in sorted(spans, reverse=True):
        text = text[:start] + written + text[end:]
    return text


# -- finding a place -----------------------------------------------------------------------------------------


def walk(node: yaml.Node, path: Path = ()) -> Iterator[tuple[Path, yaml.Node]]:
    """Every key and value with its path, from the outside inwards; what aliases name, once for each."""
    yield path, node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key
            yield from walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from walk(item, (*path, number))


def place_of(tree: yaml.Node | None, where: Place | str) -> Path | None:
    """The path to the place that a problem names; None if it names none."""
    if tree is None or not isinstance(where, Place):
        return None
    line, column = where.line - 1, where.column - 1
    best: Path | None = None
    for path, node in walk(tree):
        start, end = node.start_mark, node.end_mark
        if (start.line, start.column) <= (line, column) <= (end.line, end.column):
            best = path  # the walk goes inwards
    return best


def nodes_at(tree: yaml.Node, where: Place | str) -> list[yaml.Node]:
    """The keys and values that begin at a place, from the outermost to the innermost."""
    if not isinstance(where, Place):
        return []
    place = where.line - 1, where.column - 1
    found = [node for _, node in walk(tree) if (node.start_mark.line, node.start_mark.column) == place]
    return found[1:] if len(found) > 1 and found[0] is tree else found


def key_at(tree: yaml.Node, where: Place | str) -> Path | None:
    """The path of the entry whose key begins at a place: a mapping begins where its first key does."""
    nodes = nodes_at(tree, where)
    return _path_of(tree, nodes[-1]) if nodes and isinstance(nodes[-1], yaml.ScalarNode) else None


def value_at(tree: yaml.Node, where: Place | str) -> Path | None:
    """The path of the outermost value that begins at a place."""
    nodes = nodes_at(tree, where)
    return _path_of(tree, nodes[0]) if nodes else None


def _path_of(tree: yaml.Node, node: yaml.Node) -> Path:
    return next((path for path, found in walk(tree) if found is node), ())


def find(tree: yaml.Node | None, path: Sequence[str | int]) -> yaml.Node | None:
    """The value at a path."""
    for step in path:
        if isinstance(tree, yaml.MappingNode):
            tree = next((value for key, value in tree.value if key.value == step), None)
        elif isinstance(tree, yaml.SequenceNode) and isinstance(step, int) and step < len(tree.value):
            tree = tree.value[step]
        else:
            return None
    return tree


def read_name(tree: yaml.Node | None, *path: str | int) -> str:
    """The text of the scalar at a path; empty if there is none."""
    node = find(tree, path)
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def end_of(node: yaml.Node) -> int:
    """Where a node's text ends; PyYAML ends a block where the next one begins, comments between them included."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return end_of(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


# -- spans ---------------------------------------------------------------------------------------------------


def replaced(node: yaml.Node, written: str) -> Span:
    return node.start_mark.index, node.end_mark.index, written


def cut(text: str, tree: yaml.Node, path: Path) -> Span | None:
    """Without one entry of a mapping, and without mappings that held nothing else; None: it cannot be cut."""
    owner = find(tree, path[:-1])
    if not path or not isinstance(owner, yaml.MappingNode):
        return None
    pairs = owner.value
    if len(pairs) == 1:
        return cut(text, tree, path[:-1])
    number = next((i for i, (key, _) in enumerate(pairs) if key.value == path[-1]), None)
    if number is None:
        return None
    start = pairs[number][0].start_mark.index
    if number + 1 < len(pairs):
        return start, pairs[number + 1][0].start_mark.index, ""
    before = end_of(pairs[number - 1][1]) if owner.flow_style else text.rfind("\n", 0, start)
    return before, end_of(pairs[number][1]), ""


def line(name: str, value: Any) -> str:
    """An entry as YAML writes it: one line for a scalar, several for what has parts."""
    return yaml.safe_dump({name: value}, allow_unicode=True, sort_keys=False, width=110).strip()


def top_line(text: str, tree: yaml.MappingNode, after: str, line: str) -> Span | None:
    """A top-level line after the (one-line) value of a key, or at the end."""
    value = find(tree, (after,))
    if tree.flow_style:
        return None
    if value is None:
        # A document of a chain ends where the next one begins.
        whole = text[: tree.end_mark.index]
        return len(whole.rstrip()), len(whole), f"\n{line}\n"
    end = text.find("\n", value.end_mark.index)
    return (len(text), len(text), f"\n{line}\n") if end < 0 else (end + 1, end + 1, f"{line}\n")


def entry_text(text: str, tree: yaml.Node, path: Path, column: int) -> str | None:
    """The text of an entry, key and value, as it is written when its key begins in a column; None if there is none."""
    owner = find(tree, path[:-1])
    pairs = owner.value if isinstance(owner, yaml.MappingNode) else ()
    key, value = next((pair for pair in pairs if pair[0].value == path[-1]), (None, None))
    if key is None or value is None:
        return None
    lines = text[key.start_mark.index : end_of(value)].split("\n")
    by = column - key.start_mark.column
    moved = [" " * by + part if by >= 0 else part.removeprefix(" " * -by) for part in lines[1:]]
    return "\n".join([lines[0], *moved])


def moved_to_top(text: str, tree: yaml.MappingNode, path: Path) -> str | None:
    """An entry made one of the recipe's own; None where the recipe has another value for the key."""
    name, value = str(path[-1]), find(tree, path)
    without = cut(text, tree, path)
    if value is None or without is None:
        return None
    own = find(tree, (name,))
    if own is not None:
        return edited(text, [without]) if plain(own) == plain(value) else None
    written = entry_text(text, tree, path, 0)
    added = written and top_line(text, tree, "", written)
    return edited(text, [without, added]) if added and without[1] <= added[0] else None


def moved_into_parameters(text: str, tree: yaml.MappingNode, path: Path, owner: Path) -> str | None:
    """An entry moved to the `parameters:` of a mapping; None where these have another value for it.

    Args:
        path: of the entry
        owner: of the mapping, which may be the one that the entry is in
    """
    name, value = str(path[-1]), find(tree, path)
    without = cut(text, tree, path)
    if value is None or without is None:
        return None
    parameters = find(tree, (*owner, "parameters"))
    if isinstance(parameters, yaml.MappingNode):
        own = find(parameters, (name,))
        if own is not None:
            return edited(text, [without]) if plain(own) == plain(value) else None
        return _inserted(text, tree, path, parameters, without)
    if parameters is not None:
        return None
    if path[:-1] == owner:
        return _wrapped(text, tree, path)
    added = top_line(text, tree, "", f"parameters:\n  {entry_text(text, tree, path, 2)}")
    return edited(text, [without, added]) if added and without[1] <= added[0] else None


def _wrapped(text: str, tree: yaml.Node, path: Path) -> str | None:
    """An entry of a mapping without parameters, put into some where it is."""
    owner, value = find(tree, path[:-1]), find(tree, path)
    assert isinstance(owner, yaml.MappingNode) and value is not None
    key = next(key for key, _ in owner.value if key.value == path[-1])
    span = key.start_mark.index, end_of(value)
    if owner.flow_style:
        return edited(text, [(*span, f"parameters: {{{text[span[0] : span[1]]}}}")])
    column = key.start_mark.column + 2
    written = entry_text(text, tree, path, column)
    return edited(text, [(*span, f"parameters:\n{' ' * column}{written}")])


def _inserted(
    text: str, tree: yaml.Node, path: Path, parameters: yaml.MappingNode, without: Span
) -> str | None:
    """An entry moved to the beginning of a mapping."""
    start = parameters.start_mark
    if parameters.flow_style:
        written = entry_text(text, tree, path, 0)
        if written is None or "\n" in written:
            return None
        added = start.index + 1, start.index + 1, f"{written}, " if parameters.value else written
    else:
        written = entry_text(text, tree, path, start.column)
        added = start.index, start.index, f"{written}\n{' ' * start.column}"
    return edited(text, [without, added])


def filtered(text: str, tree: yaml.MappingNode, path: Path, parameters: Path) -> tuple[str, list[str]] | None:
    """A filter that is beside parameters, put on each of them that has a plain value or a gradient.

    Args:
        path: of the entry `filter`
        parameters: path of the mapping that it was meant for

    Returns:
        The text, and the names of the parameters; None if there are none.
    """
    mapping, wanted, without = find(tree, parameters), find(tree, path), cut(text, tree, path)
    if (
        not isinstance(mapping, yaml.MappingNode)
        or not isinstance(wanted, yaml.ScalarNode)
        or without is None
    ):
        return None
    spans, names = [without], []
    name = text[wanted.start_mark.index : wanted.end_mark.index]
    for key, value in mapping.value:
        given = plain(value)
        numbers = given if isinstance(given, list) else [given]
        if value is wanted or not all(isinstance(number, bool | int | float) for number in numbers):
            continue
        start, end = value.start_mark.index, end_of(value)
        is_block = isinstance(value, yaml.SequenceNode) and not value.flow_style
        written = str(given).lower() if is_block else text[start:end]
        spans.append((start, end, f"[{{filter: {name}, value: {written}}}]"))
        names.append(str(key.value))
    return (edited(text, spans), names) if names else None

"""The `model-index` of a model card, edited as text: everything outside our own entry keeps its bytes.

Loading the metadata and dumping it again would turn `no` into `false` and `1.10` into `1.1`, and drop comments. So the
card is parsed only to find where our entry begins and ends, and only that part is replaced.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from checkpoints.yaml import YamlError, compose_card

KEY = "model-index"
_BREAK = re.compile(r"\r\n|\n|\r")
# The metadata at the top of a card, as the Hub finds it: between two lines of three dashes.
_METADATA = re.compile(
    r"\A(?P<before>\ufeff?\s*---(?:\r\n|\r|\n))(?P<metadata>(?:[\S\s]*?(?:\r\n|\r|\n))??)---[ \t]*(?:\r\n|\n|\Z)"
)


class ModelIndexError(ValueError):
    """The metadata cannot be edited; `what` is wrong with it, as a phrase of problems."""

    def __init__(self, what: str | dict[str, str]) -> None:
        super().__init__(what)
        self.what = what


def line_break(card: str) -> str:
    """The first line break of a text; a newline where it has none, or a lone CR, at which the Hub ends no metadata."""
    found = _BREAK.search(card)
    return found[0] if found and found[0] != "\r" else "\n"


def with_results(card: str, name: str, groups: Sequence[Mapping[str, Any]]) -> str:
    """Put results into the entry of a model in a card's `model-index`, and add the entry if it is missing.

    A result replaces an earlier one of the same metric (type and name) on the same task and data.

    Args:
        card: the text of a README.md, with its byte order mark and line breaks.
        name: of the model, which names its entry.
        groups: entries of the `results` list of a `model-index`.

    Raises:
        ModelIndexError: the metadata is not YAML, or its `model-index` has another form.
    """
    new_line = line_break(card)
    found = _METADATA.match(card)
    if not found:
        mark = "\ufeff" * card.startswith("\ufeff")
        block = _edited("", name, groups, new_line)
        return f"{mark}---{new_line}{block}---{new_line}{card.removeprefix(mark)}"
    start, end = found.span("metadata")
    try:
        return card[:start] + _edited(card[start:end], name, groups, new_line) + card[end:]
    except (YamlError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())[:300]
        raise ModelIndexError({"phrase": "card-no-yaml", "words": words}) from error


def _edited(text: str, name: str, groups: Sequence[Mapping[str, Any]], new_line: str) -> str:
    """The metadata with the results in it."""
    root = compose_card(text)
    if root is not None and not isinstance(root, MappingNode):
        raise ModelIndexError("card-no-mapping")
    index = _value(root, KEY)
    entries = _mappings(index, "card-no-models")
    ours = next((entry for entry in entries if _names(entry, name)), None)
    merged = _merged(ours, name, groups)
    start, end, inserted = _edit(text, root, index, ours, merged)
    edited = text[:start] + _BREAK.sub(new_line, inserted) + text[end:]
    _check(root, compose_card(edited), name, merged)
    return edited


def _edit(
    text: str, root: MappingNode | None, index: Node | None, ours: MappingNode | None, new: MappingNode
) -> tuple[int, int, str]:
    """Where the text is cut (start, end), and what replaces the part between."""
    if root is None:
        return len(text), len(text), f"{KEY}:\n- {_block(new, 2)}\n"
    in_flow = bool(root.flow_style)
    entries = index.value if isinstance(index, SequenceNode) else []
    indent = " " * root.start_mark.column
    if index is None and in_flow:
        end = root.end_mark.index - 1
        return end, end, f"{', ' * bool(root.value)}{KEY}: [{_flow(new)}]"
    if index is None:
        return len(text), len(text), f"{indent}{KEY}:\n{indent}- {_block(new, len(indent) + 2)}\n"
    if not entries:
        start, end = len(text[: index.start_mark.index].rstrip(" ")), index.end_mark.index
        block = f"\n{indent}- {_block(new, len(indent) + 2)}"
        return start, end, f" [{_flow(new)}]" if in_flow else block
    in_flow = in_flow or (isinstance(index, CollectionNode) and bool(index.flow_style))
    if ours is not None:
        inserted = _flow(new) if in_flow else _block(new, ours.start_mark.column)
        return ours.start_mark.index, _end(text, ours), inserted
    end = _end(text, entries[-1])
    if in_flow:
        return end, end, f", {_flow(new)}"
    following = _BREAK.search(text, end)
    end = following.start() if following else len(text)
    column = index.start_mark.column
    return end, end, f"\n{' ' * column}- {_block(new, column + 2)}"


def _end(text: str, node: Node) -> int:
    """Where a node's own text ends; the mark of a block's end is after the comments that follow it."""
    while isinstance(node, CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    # A block scalar's mark is after the blank lines that follow it.
    return len(text[: node.end_mark.index].rstrip()) if _is_block_scalar(node) else node.end_mark.index


def _is_block_scalar(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style in ("|", ">")


def _merged(entry: MappingNode | None, name: str, groups: Sequence[Mapping[str, Any]]) -> MappingNode:
    """A model's entry with the results in it."""
    fields = dict.fromkeys(["name", "results"]) | {key.value: (key, value) for key, value in _pairs(entry)}
    fields["name"] = fields["name"] or _pair("name", name)
    known = _mappings(_value(entry, "results"), "card-no-results")
    for group in groups:
        place = next((n for n, one in enumerate(known) if _about(_python(one)) == _about(group)), None)
        if place is None:
            known.append(_node(group))
        else:
            known[place] = _with_metrics(known[place], group["metrics"])
    results = ScalarNode("tag:yaml.org,2002:str", "results"), _sequence(known)
    fields["results"] = results
    return MappingNode("tag:yaml.org,2002:map", list(fields.values()), flow_style=False)


def _with_metrics(group: MappingNode, metrics: Sequence[Mapping[str, Any]]) -> MappingNode:
    """A group of results with these metrics in place of earlier ones of the same type and name."""
    new = {_metric(metric) for metric in metrics}
    known = _mappings(_value(group, "metrics"), "card-no-metrics")
    kept = [metric for metric in known if _metric(_python(metric)) not in new]
    fields = {key.value: (key, value) for key, value in group.value}
    key = ScalarNode("tag:yaml.org,2002:str", "metrics")
    fields["metrics"] = key, _sequence([*kept, *map(_node, metrics)])
    return MappingNode(group.tag, list(fields.values()), flow_style=False)


def _check(old: MappingNode | None, new: Node | None, name: str, merged: MappingNode) -> None:
    """Make sure that the edit changed our entry alone, whatever the YAML around it looks like.

    Raises:
        ModelIndexError: it did not.
    """
    if isinstance(new, MappingNode) and _others(old, name) == _others(new, name):
        entries = _mappings(_value(new, KEY), "")
        ours = next((entry for entry in entries if _names(entry, name)), None)
        if ours is not None and _canonical(ours) == _canonical(merged):
            return
    raise ModelIndexError("card-entangled")


def _others(root: MappingNode | None, name: str) -> list[str]:
    """Everything in the metadata but our entry, in canonical form."""
    entries = _mappings(_value(root, KEY), "")
    ours = next((entry for entry in entries if _names(entry, name)), None)
    rest = [pair for pair in _pairs(root) if pair[0].value != KEY]
    return [
        *(_canonical(node) for pair in rest for node in pair),
        *(_canonical(entry) for entry in entries if entry is not ours),
    ]


def _names(entry: MappingNode, name: str) -> bool:
    """Whether an entry is that of a model; one without a name cannot be another model's."""
    found = _value(entry, "name")
    return found is None or found.value == name


def _pairs(node: Node | None) -> list[tuple[Node, Node]]:
    return list(node.value) if isinstance(node, MappingNode) else []


def _value(node: Node | None, key: str) -> Node | None:
    """What a mapping has under a key; the last of several, as loaders do."""
    return next((value for name, value in reversed(_pairs(node)) if name.value == key), None)


def _mappings(node: Node | None, otherwise: str) -> list[MappingNode]:
    """The mappings of a list; none for a missing or empty one."""
    if node is None or (isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
        return []
    if not isinstance(node, SequenceNode) or not all(isinstance(one, MappingNode) for one in node.value):
        raise ModelIndexError(otherwise)
    return list(node.value)


def _about(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """The task and the data of a group of results."""
    task, data = group.get("task") or {}, group.get("dataset") or {}
    return task.get("type"), *(data.get(key) for key in ("type", "config", "split", "revision"))


def _metric(metric: Mapping[str, Any]) -> tuple[Any, Any]:
    return metric.get("type"), metric.get("name")


class _Dumper(yaml.SafeDumper):
    """Writes equal values twice instead of pointing from one to the other."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _node(value: Any) -> Any:
    return _Dumper(io.StringIO(), sort_keys=False).represent_data(value)


def _pair(key: str, value: Any) -> tuple[Node, Node]:
    return _node(key), _node(value)


def _sequence(nodes: Sequence[Node]) -> SequenceNode:
    return SequenceNode("tag:yaml.org,2002:seq", list(nodes), flow_style=False)


def _python(node: Node) -> Any:
    return SafeConstructor().construct_document(node)


def _block(node: Node, column: int) -> str:
    """A node as lines, all but the first indented."""
    written: str = yaml.serialize(node, Dumper=yaml.SafeDumper, width=math.inf, allow_unicode=True)
    first, *others = written.rstrip("\n").split("\n")
    return "\n".join([first, *(" " * column + line if line else line for line in others)])


def _flow(node: Node) -> str:
    """A node on one line."""
    _set_flow(node)
    written: str = yaml.serialize(node, Dumper=yaml.SafeDumper, width=math.inf, allow_unicode=True)
    return written.rstrip("\n")


def _set_flow(node: Node) -> None:
    if isinstance(node, ScalarNode):
        node.style = '"' if _is_block_scalar(node) else node.style
        return
    if isinstance(node, CollectionNode):
        node.flow_style = True
    for part in node.value:
        for inner in part if isinstance(part, tuple) else (part,):
            _set_flow(inner)


def _canonical(node: Node) -> str:
    """A node's tags and values, however it is written."""
    written: str = yaml.serialize(node, Dumper=yaml.SafeDumper, canonical=True, width=math.inf)
    return written

"""A recipe's text made to say other data, by as few edits as possible.

Comments, the order of keys, quotes and indentation stay wherever the data stays. What cannot be edited in place (an
alias stands for two places) is rewritten from the data, as a last resort.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

import yaml

from checkpoints.yaml import YamlError, compose, load, plain
from merging.recipe.dump import dump, on_one_line
from merging.recipe.edits import Span, edited, end_of


def patched(text: str, wanted: Mapping[str, Any]) -> str:
    """The text after the edits that make it say `wanted`.

    Args:
        text: one YAML document, a mapping; anything else is rewritten
        wanted: plain data
    """
    try:
        tree = compose(text)
        if isinstance(tree, yaml.MappingNode):
            if same(plain(tree), wanted):
                return text
            changed = edited(text, _Patch(text).mapping(tree, wanted))
            if same(load(changed), wanted):
                return changed
    except (YamlError, _NotInPlace):
        pass
    return dump(wanted)


def same(one: Any, other: Any) -> bool:
    """Whether two pieces of plain data say the same: 1 is 1.0, but not true."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other) or (one != one and other != other)


class _NotInPlace(Exception):  # noqa: N818 (it is no error: the text is rewritten)
    """An edit that cannot be made in place."""


class _Patch:
    """Finds the edits of a text."""

    def __init__(self, text: str):
        self.text = text

    def inside(self, node: yaml.Node, wanted: Any) -> Iterator[Span] | None:
        """The edits of a value part by part; None if it has to be replaced."""
        if same(plain(node), wanted):
            return iter(())
        if not wanted or not node.value:
            return None
        if isinstance(node, yaml.MappingNode) and isinstance(wanted, Mapping):
            keys = {plain(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
            return self.mapping(node, wanted) if keys & wanted.keys() else None
        if isinstance(node, yaml.SequenceNode) and isinstance(wanted, list):
            return self.items(node, wanted)
        return None

    # -- mappings --------------------------------------------------------------------------------------

    def mapping(self, node: yaml.MappingNode, wanted: Mapping[str, Any]) -> Iterator[Span]:
        pairs = {plain(key): (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
        if len(pairs) < len(node.value) or not pairs.keys() & wanted.keys():
            raise _NotInPlace
        for name, (key, value) in pairs.items():
            if name in wanted:
                inside = self.inside(value, wanted[name])
                yield from [self.entry(node, key, value, wanted[name])] if inside is None else inside
        spans = [(key.start_mark.index, self.end(value)) for key, value in node.value]
        yield from self.removed(spans, [name not in wanted for name in pairs], bool(node.flow_style))
        yield from self.added(node, {name: self.end(value) for name, (_, value) in pairs.items()}, wanted)

    def entry(self, owner: yaml.MappingNode, key: yaml.Node, value: yaml.Node, wanted: Any) -> Span:
        """Another value of a key; what has parts of its own goes below the key, if that is in a block."""
        start, end = value.start_mark.index, self.end(value)
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        # What is between the key and a block may be a comment, and stays.
        between = self.text[key.end_mark.index : start].rstrip() if is_block else ":"
        if not between.startswith(":"):
            raise _NotInPlace
        if not owner.flow_style and (
            _has_parts(wanted) or (is_block and wanted and isinstance(wanted, Mapping))
        ):
            below = self.block(wanted, key.start_mark.column + 2)
            return key.end_mark.index, end, f"{between}\n{below}"
        return key.end_mark.index, end, f": {on_one_line(wanted)}{between[1:]}"

    def added(
        self, node: yaml.MappingNode, ends: Mapping[Any, int], wanted: Mapping[str, Any]
    ) -> Iterator[Span]:
        """New entries, each after the one that it follows in `wanted`; `ends` are those of the entries by key."""
        column = node.value[0][0].start_mark.column
        after = next(name for name in wanted if name in ends)
        new: dict[int, dict[str, Any]] = {}
        for name, value in wanted.items():
            if name in ends:
                after = name
            else:
                new.setdefault(ends[after], {})[name] = value
        for end, entries in new.items():
            if node.flow_style:
                yield end, end, f", {on_one_line(entries)[1:-1]}"
            else:
                yield self.after_line(end, self.block(entries, column))

    # -- lists -----------------------------------------------------------------------------------------

    def items(self, node: yaml.SequenceNode, wanted: Sequence[Any]) -> Iterator[Span]:
        """The edits of a list; an item that names the same model stays that model's."""
        flow = bool(node.flow_style)
        spans = [(self.start(item, flow), self.end(item)) for item in node.value]
        names = [_name(plain(item)) for item in node.value]
        steps = SequenceMatcher(None, names, list(map(_name, wanted)), autojunk=False).get_opcodes()
        removed = [False] * len(names)
        for _, first, last, new_first, new_last in steps:
            new = []
            for place, item in zip_longest(range(first, last), wanted[new_first:new_last], fillvalue=_NONE):
                if item is _NONE:
                    removed[place] = True
                elif place is _NONE:
                    new.append(item)
                else:
                    yield from self.item(node.value[place], item)
            if new:
                yield self.new_items(spans, last, new, flow, node.start_mark.column)
        yield from self.removed(spans, removed, flow)

    def item(self, node: yaml.Node, wanted: Any) -> Iterator[Span]:
        inside = self.inside(node, wanted)
        if inside is not None:
            yield from inside
            return
        start, end = node.start_mark.index, self.end(node)
        yield start, end, f"{' ' if self.text[start - 1] == '-' else ''}{on_one_line(wanted)}"

    def new_items(
        self, spans: Sequence[tuple[int, int]], place: int, items: list[Any], flow: bool, column: int
    ) -> Span:
        """Items before the one at a place, or after the last."""
        if flow:
            written, start = on_one_line(items)[1:-1], spans[place - 1][1] if place else spans[0][0]
            return start, start, f", {written}" if place else f"{written}, "
        lines = "\n".join(self.block([item], column) for item in items)
        if place:
            return self.after_line(spans[place - 1][1], lines)
        return spans[0][0], spans[0][0], f"{lines[column:]}\n{' ' * column}"

    # -- text ------------------------------------------------------------------------------------------

    def start(self, item: yaml.Node, flow: bool) -> int:
        """Where an item begins; in a block, at its dash."""
        begins = int(item.start_mark.index)
        return begins if flow else self.text.rfind("-", 0, begins)

    def end(self, node: yaml.Node) -> int:
        """Where a value ends; PyYAML ends a text of several lines where the next line begins."""
        end = end_of(node)
        return end - 1 if self.text[end - 1 : end] == "\n" else end

    def line_end(self, index: int) -> int:
        found = self.text.find("\n", index)
        return len(self.text) if found < 0 else found

    def after_line(self, index: int, lines: str) -> Span:
        """Lines below the one that an index is in."""
        end = self.line_end(index)
        return end, end, f"\n{lines}"

    def removed(
        self, spans: Sequence[tuple[int, int]], removed: Sequence[bool], flow: bool
    ) -> Iterator[Span]:
        """Without some entries, of which at least one stays; comments above an entry stay."""
        if all(removed):
            raise _NotInPlace
        first_kept = removed.index(False)
        for place in (place for place, goes in enumerate(removed) if goes):
            start, end = spans[place]
            above = self.text.rfind("\n", 0, start)
            if flow:
                yield (
                    (start, spans[place + 1][0], "") if place < first_kept else (spans[place - 1][1], end, "")
                )
            elif not self.text[above + 1 : start].strip():
                yield above + 1, self.line_end(end) + 1, ""
            elif place < first_kept:  # it is on the line of a dash, where the next one takes its place
                yield start, spans[place + 1][0], ""
            else:
                raise _NotInPlace

    def block(self, value: Any, column: int) -> str:
        """A value in lines that begin in a column."""
        return "\n".join(" " * column + line for line in dump(value).rstrip("\n").split("\n"))


_NONE: Any = object()


def _has_parts(value: Any) -> bool:
    """Whether a value is too much for one line."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(isinstance(part, Mapping | list) for part in parts)


def _name(item: Any) -> str:
    """What tells an item of a list from the others: the model that it names, else what it says."""
    if isinstance(item, Mapping):
        for key in ("model", "source_model", "filter"):
            if key in item:
                return f"{key}: {item[key]}"
    return repr(item)

"""Walks YAML so that every problem is found at once, each with its line and column."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import yaml

from checkpoints.problems import Place, Problem, RecipeError, suggestion
from checkpoints.yaml import BEGINNING, YamlError, documents, parts, plain

T = TypeVar("T")

# More are no help, and the nearest known word is looked up for each.
MOST_PROBLEMS = 100
# How alike two words are of which one is the other misspelt.
MISSPELT = 0.85
MERGE = "tag:yaml.org,2002:merge"


class YamlReader:
    """Walks YAML nodes, which know their line and column, and collects problems.

    Attributes:
        problems: what prevents the text from being read
        warnings: what is read otherwise than it is written, or ignored; each once
    """

    def __init__(self, text: str):
        self.text = text
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.aliased: frozenset[int] = frozenset()  # ids of the nodes that aliases name

    def problem(self, code: str, values: Mapping[str, Any], node: yaml.Node | None) -> None:
        self.report(Problem(code, values, place_of(node) if node else BEGINNING))

    def report(self, problem: Problem) -> None:
        """Add a problem.

        Raises:
            RecipeError: there are too many.
        """
        self.problems.append(problem)
        if len(self.problems) >= MOST_PROBLEMS:
            raise RecipeError(self.problems)

    def warn(self, code: str, values: Mapping[str, Any], node: yaml.Node) -> None:
        if len(self.warnings) < MOST_PROBLEMS:
            known = any((each.code, each.values) == (code, values) for each in self.warnings)
            self.warnings += [] if known else [Problem(code, values, place_of(node))]

    # -- the document ----------------------------------------------------------------------------------

    def documents(self) -> tuple[yaml.Node, ...]:
        try:
            found = documents(self.text)
        except YamlError as error:
            self.problems += error.problems
            return ()
        self.aliased = found.aliased
        if not found.nodes:
            self.problem("empty", {}, None)
        return found.nodes

    def mapping(
        self,
        node: yaml.Node,
        what: str,
        known: tuple[str, ...],
        ignored: tuple[str, ...] = (),
    ) -> dict[str, yaml.Node] | None:
        """The fields of a mapping; unknown and repeated ones become problems.

        Args:
            what: the mapping is, as a phrase of problems or in backticks
        """
        if not isinstance(node, yaml.MappingNode):
            self.problem(
                "not-a-mapping", {"what": what, "found": self.shown(node), "known": list(known)}, node
            )
            return None
        fields: dict[str, yaml.Node] = {}
        pairs = list(self.pairs(node, what))
        given = [key.value for key, _ in pairs]
        for key, value in pairs:
            name = key.value
            if name not in known and name not in ignored:
                self.unknown_key(key, value, what, known, given)
            elif not (isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null")):
                fields[name] = value
        return fields

    def unknown_key(
        self,
        key: yaml.ScalarNode,
        value: yaml.Node,
        what: str,
        known: tuple[str, ...],
        given: Sequence[str] = (),
    ) -> None:
        """Report a key that a mapping does not have. One that only holds anchors is a warning.

        Args:
            given: all keys of the mapping; what is written right beside is not what this one was meant to be
        """
        meant = [name for name in known if name not in given]
        if self.holds_anchors(value) and not difflib.get_close_matches(key.value, meant, 1, MISSPELT):
            self.warn("anchor-key", {"name": key.value}, key)
            return
        values = {"name": key.value, "what": what, **suggestion(key.value, known)}
        self.problem("unknown-key", values, key)

    def holds_anchors(self, node: yaml.Node) -> bool:
        """Whether an alias elsewhere names the node, or a part of it."""
        return id(node) in self.aliased or any(map(self.holds_anchors, parts(node)))

    def pairs(self, node: yaml.Node | None, what: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """The keys and values of a mapping, those that `<<` takes over from others after its own."""
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            self.problem("not-a-mapping", {"what": what, "found": self.shown(node)}, node)
            return
        seen: set[str] = set()
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem("key", {}, key)
            elif key.tag == MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif key.value in seen:
                self.problem("repeated-key", {"name": key.value, "what": what}, key)
            else:
                seen.add(key.value)
                yield key, value
        for other in merged:
            for key, value in self.pairs(other, what):
                if key.value not in seen:
                    seen.add(key.value)
                    yield key, value

    def sequence(
        self, node: yaml.Node | None, what: str, read: Callable[[yaml.Node], T | None]
    ) -> tuple[T, ...]:
        if node is None:
            return ()
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.problem("not-a-list", {"name": what, "found": self.shown(node)}, node)
            return ()
        items = [read(item) for item in node.value]
        return tuple(item for item in items if item is not None)

    def text_of(self, node: yaml.Node, what: str) -> str | None:
        value = self.plain(node)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return node.value  # type: ignore[no-any-return]  # a name made of digits
        self.problem("not-text", {"what": what, "found": self.shown(node)}, node)
        return None

    def plain(self, node: yaml.Node) -> object:
        """The Python value of a scalar or of a list of scalars; None for anything else."""
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item) for item in node.value]
        return plain(node) if isinstance(node, yaml.ScalarNode) else None

    def shown(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            return f"'{node.value[:60]}'"
        if isinstance(node, yaml.MappingNode):
            return "mapping"
        if not node.value:
            return "empty-list"
        return "list" if len(node.value) != 2 else str(self.plain(node))[:60]


def place_of(node: yaml.Node) -> Place | str:
    """Where a node begins; empty if it was not read from a text."""
    mark = node.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else ""

"""Walks YAML so that every problem is found at once, each with its line and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import yaml

from checkpoints.problems import Place, Problem, RecipeError, suggestion

T = TypeVar("T")

# A recipe is a page of text; more is a mistake or an attack (YAML aliases can multiply values).
MAX_CHARACTERS = 1_000_000
MAX_NODES = 100_000
BEGINNING = Place(1, 1)
BEGINNING = Place(1, 1)


class Loader(yaml.SafeLoader):
    """YAML's plain types, and numbers as people write them: YAML 1.1 reads `1e-5` as text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class YamlReader:
    """Walks YAML nodes, which know their line and column, and collects problems."""

    def __init__(self, text: str):
        self.text = text
        self.problems: list[Problem] = []
        self.nodes = 0

    def problem(self, code: str, values: Mapping[str, Any], node: yaml.Node | None) -> None:
        self.problems.append(Problem(code, values, place_of(node) if node else BEGINNING))

    # -- the document ----------------------------------------------------------------------------------

    def documents(self) -> list[yaml.Node]:
        if len(self.text) > MAX_CHARACTERS:
            self.problem("too-long", {"count": len(self.text)}, None)
            return []
        try:
            nodes = [node for node in yaml.compose_all(self.text, Loader=Loader) if not _is_empty(node)]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = Place(mark.line + 1, mark.column + 1) if mark else BEGINNING
            self.problems.append(Problem("yaml", {"error": error.problem or error.context}, where))
            return []
        except (yaml.YAMLError, RecursionError) as error:
            self.problem("yaml", {"error": type(error).__name__}, None)
            return []
        if not nodes:
            self.problem("empty", {}, None)
        return nodes

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
        for key, value in self.pairs(node, what):
            name = key.value
            if name not in known and name not in ignored:
                self.problem("unknown-key", {"name": name, "what": what, **suggestion(name, known)}, key)
            elif not (isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null")):
                fields[name] = value
        return fields

    def pairs(self, node: yaml.Node | None, what: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            self.problem("not-a-mapping", {"what": what, "found": self.shown(node)}, node)
            return
        seen: set[str] = set()
        for key, value in node.value:
            self.count(node)
            if not isinstance(key, yaml.ScalarNode):
                self.problem("key", {}, key)
            elif key.value in seen:
                self.problem("repeated-key", {"name": key.value, "what": what}, key)
            else:
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
        items = [read(item) for item in node.value if self.count(item)]
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
            return "mapping"
        return "list" if len(node.value) != 2 else str(self.plain(node))

    def count(self, node: yaml.Node) -> bool:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise RecipeError(Problem("too-many-values", {}, place_of(node)))
        return True


def place_of(node: yaml.Node) -> Place | str:
    """Where a node begins; empty if it was not read from a text."""
    mark = node.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else ""


def _is_empty(node: yaml.Node) -> bool:
    """Whether a document is empty, as after a trailing `---`."""
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")

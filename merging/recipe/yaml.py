"""Walking YAML so that every fault is found at once, each with its line and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import yaml

from checkpoints.problems import Problem, RecipeError, did_you_mean

T = TypeVar("T")

# A recipe is a page of text; more is a mistake or an attack (YAML aliases can multiply).
MAX_CHARACTERS = 1_000_000
MAX_NODES = 100_000


class Loader(yaml.SafeLoader):
    """YAML's plain types, and numbers as people write them: to YAML 1.1 alone, `1e-5` is a text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class YamlReader:
    """Walks the YAML nodes, which know their line and column, and collects problems on the way."""

    def __init__(self, text: str):
        self.text = text
        self.problems: list[Problem] = []
        self.nodes = 0

    def problem(self, code: str, message: str, fix: str, node: yaml.Node | None) -> None:
        self.problems.append(Problem(code, message, fix, place_of(node) if node else "line 1, column 1"))

    # -- the document ----------------------------------------------------------------------------------

    def documents(self) -> list[yaml.Node]:
        if len(self.text) > MAX_CHARACTERS:
            message = f"The recipe has {len(self.text)} characters."
            self.problem("too-long", message, "A recipe is a page of text.", None)
            return []
        try:
            nodes = [node for node in yaml.compose_all(self.text, Loader=Loader) if not _is_empty(node)]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1, column 1"
            message = f"This is not YAML: {error.problem or error.context}."
            self.problems.append(
                Problem("yaml", message, "Check indentation, colons and brackets there.", where)
            )
            return []
        except (yaml.YAMLError, RecursionError) as error:
            self.problem("yaml", f"This is not YAML: {type(error).__name__}.", "Check the text.", None)
            return []
        if not nodes:
            self.problem("empty", "The recipe is empty.", "Start with `merge_method:` and `models:`.", None)
        return nodes

    def mapping(
        self,
        node: yaml.Node,
        what: str,
        known: tuple[str, ...],
        ignored: tuple[str, ...] = (),
    ) -> dict[str, yaml.Node] | None:
        """The fields of a mapping; unknown and repeated ones become problems."""
        if not isinstance(node, yaml.MappingNode):
            message = f"Expected {what} as `key: value` lines; found {self.shown(node)}."
            self.problem("not-a-mapping", message, f"Keys: {', '.join(known)}.", node)
            return None
        fields: dict[str, yaml.Node] = {}
        for key, value in self.pairs(node, what):
            name = key.value
            if name not in known and name not in ignored:
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
            raise RecipeError(Problem("too-long", message, "Use fewer aliases.", place_of(node)))
        return True


def place_of(node: yaml.Node) -> str:
    mark = node.start_mark
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _is_empty(node: yaml.Node) -> bool:
    """Whether a document has nothing in it, as behind a last `---`."""
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")

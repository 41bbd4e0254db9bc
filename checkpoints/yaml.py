"""The reader of YAML that a stranger may have written: recipes, links to them, and the metadata of cards.

It makes plain data only, and within limits: PyYAML alone follows aliases of aliases, so that a kilobyte can stand for
gigabytes, recurses as deep as the text says, and fails on numbers and tags in many ways. It is also slow, and Python
runs one thread at a time. So texts are read one after the other: a server's other threads then wait for one at most.
"""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import yaml

from checkpoints.problems import Place, Problem, ProblemError
from checkpoints.typed_text import MAX_CHARACTERS

T = TypeVar("T")

# A recipe is a page of text. The metadata of a card can list hundreds of benchmark results.
RECIPE, CARD = MAX_CHARACTERS, 1_000_000
# A text may have one value for every 10 characters of its limit. Few come near: a recipe that lists two parameters by
# filter for each of 100 layers of three models has 7,000 values, and a recipe may have 20,000.
CHARACTERS_PER_VALUE = 10
MAX_DEPTH = 40
# More digits are kept as text: Python takes long for thousands, and floats end before 400.
MAX_DIGITS = 100
BEGINNING = Place(1, 1)
_TAG = "tag:yaml.org,2002:"
# Long recipes that are read or wait for their turn; more are refused, so that a server has threads for other visitors.
LONG, MAX_LONG = 10_000, 16
# Texts whose data is kept: the parts of the page read a recipe one after the other.
MOST_KEPT = 8
_PLAIN_TAGS = (f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map")


class YamlError(ProblemError):
    """The text is not YAML, or exceeds a limit."""


class Limited(yaml.SafeLoader):
    """YAML's plain types, within limits.

    Args:
        longest: characters that the text may have

    Attributes:
        aliased: ids of the nodes that aliases name
    """

    def __init__(self, text: str, longest: int):
        super().__init__(text)
        self._most = longest // CHARACTERS_PER_VALUE
        self.aliased: set[int] = set()
        self._depth = 0
        # By a node's id: how many values it stands for, where an alias counts as all that it names.
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        if getattr(event, "tag", None) not in (None, "!", *_PLAIN_TAGS):
            raise YamlError(Problem("yaml-tag", {"tag": event.tag[:60]}, place))
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise YamlError(Problem("too-deep", {"most": MAX_DEPTH}, place))
        node = super().compose_node(parent, index)
        assert node is not None
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:  # it is not complete yet
                raise YamlError(Problem("endless-alias", {"name": event.anchor}, place))
            self.aliased.add(id(node))
            return node
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in parts(node))
        if size > self._most:
            raise YamlError(Problem("too-many-values", {"most": self._most}, place))
        return node


class Loader(Limited):
    """Numbers as people write them: YAML 1.1 reads `1e-5` as text, and some names as dates."""


def _whole_number(loader: Loader, node: yaml.ScalarNode) -> int | str:
    text = str(node.value)
    try:
        return text if len(text) > MAX_DIGITS else loader.construct_yaml_int(node)
    except ValueError:  # `0x_` looks like a number
        return text


Loader.add_constructor(f"{_TAG}int", _whole_number)
Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != f"{_TAG}timestamp"]
    for first, found in Loader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Documents:
    """The documents of a text that are not empty.

    Args:
        nodes: the root of each, which knows its place
        aliased: ids of the nodes that aliases name
    """

    nodes: tuple[yaml.Node, ...]
    aliased: frozenset[int]


def documents(text: str, longest: int = RECIPE) -> Documents:
    """Read all documents of a text.

    Args:
        longest: characters that the text may have

    Raises:
        YamlError: see there; also below.
    """

    def read() -> Documents:
        loader = Loader(text, longest)
        return Documents(tuple(_all(loader)), frozenset(loader.aliased))

    return _read(text, longest, read)


def compose(text: str, longest: int = RECIPE) -> yaml.Node | None:
    """The root of a text that is one document; None if it is empty."""
    return _read(text, longest, lambda: Loader(text, longest).get_single_node())


def compose_card(text: str) -> yaml.Node | None:
    """The root of a card's metadata, with the types that YAML 1.1 gives its values; None if it is empty."""
    return _read(text, CARD, lambda: Limited(text, CARD).get_single_node())


def load(text: str, longest: int = RECIPE) -> Any:
    """The plain data of a text that is one document; None if it is empty."""
    found = _read(text, longest, lambda: _pickled(text, longest))
    if isinstance(found, YamlError):
        raise YamlError(found.problems)
    return pickle.loads(found)


@lru_cache(MOST_KEPT)
def _pickled(text: str, longest: int) -> bytes | YamlError:
    """The plain data of a text, for one caller after the other to change; or why it exceeds a limit."""
    try:
        return pickle.dumps(Loader(text, longest).get_single_data())
    except YamlError as error:
        return error


def plain(node: yaml.Node) -> Any:
    """The plain data of a node; None where it cannot be made."""
    try:
        return Loader("", RECIPE).construct_document(node)
    except yaml.YAMLError:
        return None


def parts(node: yaml.Node) -> Iterator[yaml.Node]:
    """The keys and values of a mapping, or the items of a list."""
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _read(text: str, longest: int, read: Callable[[], T]) -> T:
    if len(text) > longest:
        raise YamlError(Problem("too-long", {"count": len(text), "most": longest}, BEGINNING))
    try:
        with _turn(longest == RECIPE and len(text) > LONG):
            return read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Place(mark.line + 1, mark.column + 1) if mark else BEGINNING
        raise YamlError(Problem("yaml", {"error": error.problem or error.context}, where)) from None
    except yaml.YAMLError as error:
        words = getattr(error, "reason", type(error).__name__)
        raise YamlError(Problem("yaml", {"error": words}, BEGINNING)) from None


class _Turns:
    """Whose turn it is to read a text."""

    def __init__(self) -> None:
        self.one = threading.Lock()
        self.long = threading.Semaphore(MAX_LONG)


_turns = _Turns()


def _forget_turns() -> None:
    """After a fork: the threads that had turns are not in the new process."""
    global _turns
    _turns = _Turns()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_turns)


@contextmanager
def _turn(is_long: bool) -> Iterator[None]:
    """Wait for the turn to read a text, and keep it.

    Raises:
        YamlError: the text is a long recipe, and too many of those wait.
    """
    turns = _turns
    if is_long and not turns.long.acquire(blocking=False):
        raise YamlError(Problem("too-many-recipes", {}, BEGINNING))
    try:
        with turns.one:
            yield
    finally:
        if is_long:
            turns.long.release()


def _all(loader: Limited) -> Iterator[yaml.Node]:
    while loader.check_node():
        node = loader.get_node()
        if node is not None and not _is_empty(node):
            yield node


def _is_empty(node: yaml.Node) -> bool:
    """Whether a document is empty, as after a trailing `---`."""
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")

"""Reads a space: a recipe with ranges, and its `search:` block, or every problem of the text at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import yaml

from checkpoints.problems import Place, Problem, RecipeError, suggestion
from merging.methods import METHODS
from merging.methods.parameters import Scalar
from merging.recipe.reader import place_in_text
from merging.recipe.yaml import YamlReader
from searching.genome import is_genome, layers_of, space_of_genome
from searching.goals import (
    GOAL_KINDS,
    HIGHER_IS_BETTER,
    PARTS,
    STARTS,
    WAYS,
    Goal,
    GoalKind,
    Limit,
    Part,
    Settings,
    Shares,
    Start,
)
from searching.space import Axis, Marked, Space

MOST_ANCHORS = 64
_RANGE = ("filter", "search", "start", "anchors")
# A model, and what is added to its figure. Names of models may have signs in them.
_LIMITS = (
    re.compile(r"\s*(base)\s*(?:([+-])\s*([0-9.eE-]+)\s*)?"),
    re.compile(r"\s*(\S+)(?:\s+([+-])\s*([0-9.eE-]+))?\s*"),
)
_BLOCK = ("objective", "split", "by", "budget", "seed", "starts")
_OF_TASKS = ("questions", "few_shot", "metric")
_OF_DATASETS = ("column", "rows", "split", "subset")
_OF_TEXTS = ("teacher",)
_GOAL = ("name", "weight", "at_most", "at_least", *_OF_TEXTS, *GOAL_KINDS, *_OF_TASKS, *_OF_DATASETS)


def read_space(text: str, layers: Callable[[str], int] = layers_of) -> Space:
    """Read a space from YAML (or JSON) text. Files for mergekit-evolve are read as spaces too.

    Args:
        text: a recipe with ranges and a `search:` block, or a file for mergekit-evolve
        layers: how many layers a model has; asked for such a file with groups of layers

    Raises:
        RecipeError: with every problem of the text.
    """
    reader = _SpaceReader(space_of_genome(text, layers) if is_genome(text) else text)
    space = reader.space()
    problems = reader.problems or (_problems_of(space) if space else ())
    if space and not problems:
        problems = _unknown_models(space)
    if problems or space is None:
        raise RecipeError(sorted(dict.fromkeys(problems), key=place_in_text))
    return space


def _problems_of(space: Space) -> list[Problem]:
    """What is wrong with the recipes of the space: at both ends of each range and at each choice, and at the start.

    Where the ends of a range are wrong, the start in it says nothing more.
    """
    own: list[Problem] = []
    others = [*_problems_at(space, {})]
    for place, values in _corners(space):
        for problem in _problems_at(space, values):
            (own if problem.where == place else others).append(problem)
    places = {problem.where for problem in own}
    return own + [problem for problem in others if problem.where not in places]


def _problems_at(space: Space, values: Mapping[str, Scalar]) -> Sequence[Problem]:
    """What is wrong with the recipe at the start, but for these values."""
    try:
        space.recipe({**space.start, **values})
    except RecipeError as error:
        return error.problems
    return ()


def _unknown_models(space: Space) -> list[Problem]:
    """What is wrong with teachers, limits and starts: they are of the recipe's models."""
    goals, starts = space.settings.goals, space.settings.starts
    if not starts and not any(goal.teacher or (goal.limit and goal.limit.of) for goal in goals):
        return []
    known = list(space.parents())
    problems = []
    for goal in goals:
        of = goal.limit.of if goal.limit else ""
        if goal.teacher not in ("", *known):
            values = {"goal": goal.name, "name": goal.teacher, **suggestion(goal.teacher, known)}
            problems.append(Problem("unknown-teacher", values))
        if of not in ("", "base", *known):
            values = {"goal": goal.name, "name": of, **suggestion(of, known)}
            problems.append(Problem("unknown-limit", values))
    count = len(space.weighted_models())
    if starts and count < 2:
        problems.append(Problem("starts-without-weights", {"count": count}))
    likely = all(goal.kind in ("text", "dataset") for goal in goals if not goal.is_guard)
    if "lm_cocktail" in starts and not likely:
        problems.append(Problem("cocktail-without-texts"))
    return problems


def _corners(space: Space) -> list[tuple[Place, dict[str, Scalar]]]:
    """The place of each range or choice, with one of its ends or values."""
    found: list[tuple[Place, dict[str, Scalar]]] = []
    for marked in space.marked:
        mark = marked.node.start_mark
        place = Place(mark.line + 1, mark.column + 1)
        axes = [axis for axis in space.axes if axis.name in marked.axes]
        if axes[0].parameter == "use":  # which models take part is decided point by point
            found.append((place, {axes[0].name: True}))
            continue
        ends = axes[0].choices or tuple(end for end in (axes[0].low, axes[0].high) if end is not None)
        found += [(place, {axis.name: axis.rounded(end) for axis in axes}) for end in ends]
    return found


@dataclass(frozen=True)
class _Around:
    """What surrounds a value in the recipe."""

    model: str = ""
    keys: tuple[str, ...] = ()

    def below(self, key: str) -> _Around:
        return _Around(self.model, (*self.keys, key))


class _SpaceReader(YamlReader):
    """Collects the axes of a recipe and reads its `search:` block."""

    def __init__(self, text: str):
        super().__init__(text)
        self.axes: dict[str, Axis] = {}
        self.marked: list[Marked] = []

    def space(self) -> Space | None:
        documents = self.documents()
        blocks = [block for node in documents if (block := self.without_block(node))]
        for node in documents:
            self.walk(node, _Around())
        if self.problems:
            return None
        if len(blocks) != 1:
            self.problem("no-search-block", {}, blocks[1] if blocks else None)
            return None
        settings = self.settings(blocks[0])
        if not self.axes:
            self.problem("nothing-to-search", {}, documents[0])
        if settings is None or self.problems:
            return None
        return Space(self.text, tuple(self.axes.values()), settings, tuple(documents), tuple(self.marked))

    def without_block(self, node: yaml.Node) -> yaml.Node | None:
        """Take the `search:` block out of a document."""
        if not isinstance(node, yaml.MappingNode):
            return None
        found = [pair for pair in node.value if getattr(pair[0], "value", None) == "search"]
        node.value = [pair for pair in node.value if pair not in found]
        return found[0][1] if found else None

    # -- ranges ----------------------------------------------------------------------------------------

    def walk(self, node: yaml.Node, around: _Around) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.walk(item, around)
        elif isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
            names = [key.value for key, _ in pairs]
            if "search" in names:
                self.range(node, around)
                return
            if "model" in names:
                around = _Around(self.model_name(pairs[names.index("model")][1]), around.keys)
            for key, value in pairs:
                self.walk(value, around.below(key.value))

    def model_name(self, node: yaml.Node) -> str:
        while isinstance(node, yaml.MappingNode) and node.value:
            node = node.value[0][1]
        return str(node.value) if isinstance(node, yaml.ScalarNode) else "model"

    def range(self, node: yaml.MappingNode, around: _Around) -> None:
        """Enter the axes of `{search: ..., start: ..., anchors: ..., filter: ...}`."""
        found = self.mapping(node, "search-range", known=_RANGE)
        parameter = around.keys[-1] if around.keys else ""
        if found is None or "search" not in found:
            return
        values = self.plain(found["search"])
        if not isinstance(values, list) or len(values) < 2 or not all(map(_is_scalar, values)):
            shown = self.shown(found["search"])
            self.problem("search-values", {"parameter": parameter, "found": shown}, found["search"])
            return
        count = self.anchors(found.get("anchors"))
        axis = self.axis(values, parameter, around.model, found["search"])
        if axis is None:
            return
        start = self.start(found.get("start"), axis, count)
        filtered = found.get("filter")
        name = ".".join(filter(None, [around.model, parameter]))
        name += f"[{filtered.value}]" if isinstance(filtered, yaml.ScalarNode) else ""
        names = []
        for number in range(count or 1):
            own = self.unique(f"{name}#{number + 1}" if count else name)
            self.axes[own] = Axis(
                own, parameter, start[number], axis.low, axis.high, axis.choices, axis.integer, around.model
            )
            names.append(own)
        self.marked.append(Marked(node, tuple(names), filtered, count is not None))

    def unique(self, name: str) -> str:
        """The name, with a number behind it if it is taken."""
        number, found = 2, name
        while found in self.axes:
            number, found = number + 1, f"{name} ({number})"
        return found

    def axis(self, values: Sequence[Any], parameter: str, model: str, node: yaml.Node) -> Axis | None:
        """An axis without name: a range for two numbers, a choice for anything else."""
        declared = [method.parameter(parameter) for method in METHODS.values()]
        kinds = {one.kind for one in declared if one is not None}
        if parameter == "use" or kinds == {"bool"}:
            if not all(value in (0, 1) for value in values):
                self.problem("search-switch", {"parameter": parameter, "found": self.shown(node)}, node)
                return None
            return Axis("", parameter, True, choices=(True, False), model=model)
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) != 2 or len(values) != 2:
            return Axis("", parameter, values[0], choices=tuple(dict.fromkeys(values)), model=model)
        low, high = map(float, numbers)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            self.problem("search-values", {"parameter": parameter, "found": self.shown(node)}, node)
            return None
        return Axis("", parameter, low, low, high, integer=kinds == {"integer"}, model=model)

    def anchors(self, node: yaml.Node | None) -> int | None:
        if node is None:
            return None
        value = self.plain(node)
        if isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= MOST_ANCHORS:
            return value
        self.problem("search-anchors", {"found": self.shown(node), "most": MOST_ANCHORS}, node)
        return None

    def start(self, node: yaml.Node | None, axis: Axis, count: int | None) -> list[Scalar]:
        """A start for each anchor; without one the middle of the range, or the first choice."""
        middle: Scalar = axis.start if axis.choices else ((axis.low or 0) + (axis.high or 0)) / 2
        default = axis.rounded(middle)
        if node is None:
            return [default] * (count or 1)
        given: Any = self.plain(node)
        values = given if isinstance(given, list) else [given] * (count or 1)
        if len(values) != (count or 1) or not all(_is_on(axis, value) for value in values):
            expected = axis.described()
            self.problem("search-start", {"found": self.shown(node), "expected": expected}, node)
            return [default] * (count or 1)
        return [axis.rounded(bool(value) if axis.choices == (True, False) else value) for value in values]

    # -- the block -------------------------------------------------------------------------------------

    def settings(self, node: yaml.Node) -> Settings | None:
        found = self.mapping(node, "search-block", known=_BLOCK)
        if found is None:
            return None
        if "objective" not in found:
            self.problem("no-objective", {}, node)
            return None
        goals = self.sequence(found["objective"], "objective", self.goal)
        if goals and all(goal.is_guard for goal in goals):
            self.problem("only-guards", {}, found["objective"])
        for number, goal in enumerate(goals):
            if goal.name in {other.name for other in goals[:number]}:
                self.problem("repeated-goal", {"name": goal.name}, found["objective"])
        budget = self.optional(found.get("budget"), "search-budget", ("trials", "minutes"))
        trials = self.number(budget.get("trials"), "trials", 60, low=1, whole=True)
        minutes = self.number(budget["minutes"], "minutes", 0, low=0.01) if "minutes" in budget else None
        by = self.plain(found["by"]) if "by" in found else "auto"
        if by not in WAYS:
            self.problem("search-way", {"name": str(by), **suggestion(str(by), WAYS)}, found["by"])
        seed = int(self.number(found.get("seed"), "seed", 0, low=0, whole=True))
        shares = self.shares(found.get("split"))
        starts = self.sequence(found["starts"], "starts", self.start_name) if "starts" in found else ()
        if starts and by == "grid":
            self.problem("starts-of-grid", {}, found["starts"])
        return Settings(goals, shares, by, int(trials), minutes, seed, starts)  # type: ignore[arg-type]

    def start_name(self, node: yaml.Node) -> Start | None:
        name = self.plain(node)
        if name in STARTS:
            return name
        self.problem("unknown-start", {"name": str(name), **suggestion(str(name), STARTS)}, node)
        return None

    def optional(self, node: yaml.Node | None, what: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
        return (self.mapping(node, what, known=known) or {}) if node is not None else {}

    def shares(self, node: yaml.Node | None) -> Shares:
        found = self.optional(node, "search-split", (*PARTS, "seed"))
        given = {part: self.number(found.get(part), part, getattr(Shares, part), low=0) for part in PARTS}
        if node is not None and (abs(sum(given.values()) - 1) > 1e-6 or min(given.values()) <= 0):
            self.problem("search-shares", {"given": [f"{share:g}" for share in given.values()]}, node)
        return Shares(**given, seed=int(self.number(found.get("seed"), "seed", 0, low=0, whole=True)))

    def number(
        self, node: yaml.Node | None, name: str, default: float, *, low: float, whole: bool = False
    ) -> float:
        if node is None:
            return default
        value = self.plain(node)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if is_number and value >= low and (not whole or value == int(value)):  # type: ignore[operator,call-overload]
            return float(value)  # type: ignore[arg-type]
        self.problem("search-number", {"name": name, "found": self.shown(node), "low": low}, node)
        return default

    # -- goals -----------------------------------------------------------------------------------------

    def goal(self, node: yaml.Node) -> Goal | None:
        before = len(self.problems)
        found = self.mapping(node, "search-goal", known=_GOAL)
        if found is None or len(self.problems) > before:
            return None
        kinds = [kind for kind in GOAL_KINDS if kind in found and not (kind == "text" and "python" in found)]
        if len(kinds) != 1:
            self.problem("goal-kind", {"known": list(GOAL_KINDS)}, node)
            return None
        kind = kinds[0]
        by_part = self.by_part(found["text"]) if kind == "text" else {}
        source = by_part.get("report", "") or self.source(kind, found[kind])
        limit = self.limit(kind, found)
        if kind == "chat" and limit is None:
            self.problem("chat-without-limit", {}, node)
        named = (*_OF_TASKS, *_OF_DATASETS, *_OF_TEXTS)
        settings = {name: self.setting(name, found[name]) for name in named if name in found}
        if "teacher" in found and kind not in ("text", "dataset"):
            self.problem("teacher-without-text", {"kind": kind}, found["teacher"])
        name = self.text_of(found["name"], "name") if "name" in found else None
        return Goal(
            name or source.rpartition("/")[2] or kind,
            kind,
            source,
            self.weight(found.get("weight"), limit),
            limit,
            by_part,
            text=self.source("text", found["text"]) if kind == "python" and "text" in found else "",
            **settings,
        )

    def weight(self, node: yaml.Node | None, limit: Limit | None) -> float:
        """Of a goal; 0 of one with a limit."""
        value = self.number(node, "weight", 0.0 if limit else 1.0, low=0)
        if node is not None and bool(value) == bool(limit):
            self.problem("weight-of-limit" if limit else "goal-without-weight", {}, node)
        return value

    def source(self, kind: GoalKind, node: yaml.Node) -> str:
        if kind == "chat" and self.plain(node) is True:
            return ""
        given = self.text_of(node, kind) or ""
        if kind == "python" and not re.fullmatch(r".+\.py:[A-Za-z_]\w*", given):
            self.problem("python-source", {"given": given}, node)
        return given

    def by_part(self, node: yaml.Node) -> Mapping[Part, str]:
        """`{search: a.txt, choice: b.txt, report: c.txt}`."""
        if not isinstance(node, yaml.MappingNode):
            return {}
        found = self.mapping(node, "search-parts", known=PARTS) or {}
        if set(found) != set(PARTS):
            self.problem("parts-missing", {"given": list(found), "known": list(PARTS)}, node)
            return {"report": "missing"}
        return {part: self.text_of(found[part], "text") or "" for part in PARTS}

    def limit(self, kind: GoalKind, found: Mapping[str, yaml.Node]) -> Limit | None:
        key, other = ("at_least", "at_most") if kind in HIGHER_IS_BETTER else ("at_most", "at_least")
        if other in found:
            self.problem("limit-direction", {"kind": kind, "key": key, "given": other}, found[other])
            return None
        if key not in found:
            return None
        value = self.plain(found[key])
        if isinstance(value, int | float) and not isinstance(value, bool):
            return Limit(float(value))
        matches = (limit.fullmatch(value) for limit in _LIMITS if isinstance(value, str))
        match = next(filter(None, matches), None)
        if match:
            with suppress(ValueError):
                return Limit(float((match[2] or "+") + (match[3] or "0")), match[1])
        self.problem("goal-limit", {"key": key, "found": self.shown(found[key])}, found[key])
        return None

    def setting(self, name: str, node: yaml.Node) -> Any:
        kind = {one.name: one.type for one in fields(Goal)}[name]
        if "int" in str(kind):
            low = 0 if name == "few_shot" else 1
            return int(self.number(node, name, low, low=low, whole=True))
        return self.text_of(node, name)


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _is_on(axis: Axis, value: object) -> bool:
    if axis.choices == (True, False):
        return value in (0, 1)
    if axis.choices:
        return value in axis.choices
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and axis.holds(value)  # type: ignore[arg-type]

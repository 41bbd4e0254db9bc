"""The config of a result whose layers are stacked in another order than in its parents.

The config is rewritten by what it says of layers (`checkpoints.layer_kinds`). Then it is judged: where transformers
knows the class, the model that it builds must have, at every place, a layer of the kind that the source's config
builds. What cannot be derived is a problem that names the key, never a guess.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.architecture import Layout, Module, Stack, part_at
from checkpoints.built_model import BuiltModel, build, refusal
from checkpoints.layer_kinds import Conflict, facts, restacked
from checkpoints.problems import Problem

Path = tuple[str, ...]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class NewStack:
    """A stack of the result.

    Args:
        module: of the donor, whose names the result has
        sources: for each layer of the result, the model that it comes from and its number there
    """

    module: Module
    sources: Sequence[tuple[Layout, int]]

    def of(self, layout: Layout) -> Stack | None:
        """The stack of a source that its layers come from."""
        return layout.modules.get(self.module.name, layout.main).stack

    def is_as_in(self, donor: Layout) -> bool:
        """Whether it has the layers of the donor's stack, all in their places."""
        stack = self.module.stack
        return stack is None or [*self.sources] == [(donor, number) for number in range(stack.count)]


def stack_config(
    config: dict[str, Any],
    donor: Layout,
    stacks: Sequence[NewStack],
    shapes: Mapping[int, Shapes],
    outside: Shapes,
) -> list[Problem]:
    """Let a config describe new stacks of layers, in place.

    Args:
        config: a copy of the donor's, apart from what does not concern layers
        donor: the layout of the model that the config comes from
        stacks: of the result
        shapes: of the tensors of each layout, by the layout's id
        outside: shapes of the result's tensors that belong to no layer, by name

    Returns:
        What the config cannot say of the new stacks.
    """
    changed = [stack for stack in stacks if not stack.is_as_in(donor)]
    if not changed:
        return []
    conflicts = [conflict for stack in changed for conflict in _rewrite(config, donor, stack)]
    if tables := [*_numbered(outside, changed), *_counted_alike(donor, changed)]:
        return [_table(tables)]
    layouts = [
        *{id(o): o for o in (donor, *(layout for stack in changed for layout, _ in stack.sources))}.values()
    ]
    built, *parents = build([config, *(layout.config for layout in layouts)])
    known = dict(zip(map(id, layouts), parents, strict=True))
    if built is None and all(parents) and (reason := refusal(config)):
        return [_conflict(one) for one in conflicts] or [Problem("layers-not-built", {"reason": reason})]
    if built is None or not all(parents) or not all(_is_judged(built, stack, known) for stack in changed):
        silent = [_uncounted(donor, stack) or _unexplained(stack, shapes) for stack in changed]
        tables = sorted(name for name in outside if "per_layer" in name)
        return [
            *map(_conflict, conflicts),
            *(problem for problem in silent if problem),
            *([_table(tables)] if tables else []),
        ]
    differing = [_differing(built, stack, known) for stack in changed]
    if any(differing) and _write_lists(config, donor, changed, built, known):
        [again] = build([config])
        if again:
            built, differing = again, [_differing(again, stack, known) for stack in changed]
    if resized := [
        problem for stack in changed if (problem := _resized(built, stack, known[id(donor)], donor))
    ]:
        return [_conflict(one) for one in conflicts] or resized[:1]
    if any(differing):
        layer = next(layers[0] for layers in differing if layers)
        return [_conflict(one) for one in conflicts] or [_other_kind(layer)]
    if grown := _grown(built, known[id(donor)], changed):
        return [_table(grown)]
    wider = [name for name, shape in outside.items() if tuple(built.shapes.get(name, shape)) != shape]
    return [_table(wider)] if wider else []


def _rewrite(config: dict[str, Any], donor: Layout, stack: NewStack) -> list[Conflict]:
    """Rewrite every part of a config that speaks of a stack."""
    assert stack.module.stack
    count = stack.module.stack.count
    conflicts: list[Conflict] = []
    places: list[tuple[Path, str | None]] = [*donor.counts(stack.module.stack)]
    for path, key in places or [((), None)]:
        sources = []
        for layout, layer in stack.sources:
            own, length = _part_of(layout, stack, path)
            sources.append((own, layer, length))
        part, found = restacked(part_at(config, path), sources, count)
        if key is not None:
            part[key] = len(stack.sources)
        part_at(config, path).update(part)
        conflicts += found
    return conflicts


def _part_of(layout: Layout, stack: NewStack, path: Path) -> tuple[Mapping[str, Any], int]:
    """The part of a source's config that speaks of its layers, and how many it has."""
    own = stack.of(layout)
    assert own
    places = [place for place, _ in layout.counts(own)]
    if path not in places and places:
        path = places[0]
    return part_at(layout.config, path), own.count


def _is_judged(built: BuiltModel, stack: NewStack, known: Mapping[int, BuiltModel | None]) -> bool:
    """Whether the layers of a stack and of its sources are found in what transformers builds."""
    return bool(_kinds(built, stack)) and "" not in _kinds_of_sources(stack, known)


def _differing(built: BuiltModel, stack: NewStack, known: Mapping[int, BuiltModel | None]) -> list[int]:
    """The layers of the result that would be built as another kind than their sources."""
    got = _kinds(built, stack)
    wanted = _kinds_of_sources(stack, known)
    return [number for number, kind in enumerate(wanted) if number >= len(got) or got[number] != kind]


def _resized(built: BuiltModel, stack: NewStack, before: BuiltModel | None, donor: Layout) -> Problem | None:
    """A problem if a stack would be built with more or fewer layers than it has, as far as its donor's is not."""
    assert stack.module.stack and before
    behind = (
        len(before.kinds_of(stack.module.stack.prefix, stack.module.stack.count)) - stack.module.stack.count
    )
    count = len(_kinds(built, stack)) - behind
    if count == len(stack.sources):
        return None
    return Problem("layer-count", {"built": count, "count": len(stack.sources)})


def _kinds(built: BuiltModel, stack: NewStack) -> list[str]:
    assert stack.module.stack
    return built.kinds_of(stack.module.stack.prefix, len(stack.sources))


def _kinds_of_sources(stack: NewStack, known: Mapping[int, BuiltModel | None]) -> list[str]:
    """For each layer of the result the kind of its source; empty where that is not found."""
    wanted = []
    for layout, layer in stack.sources:
        model, own = known[id(layout)], stack.of(layout)
        kinds = model.kinds_of(own.prefix, own.count) if model and own else []
        wanted.append(kinds[layer] if layer < len(kinds) else "")
    return wanted


def _numbered(outside: Shapes, stacks: Sequence[NewStack]) -> list[str]:
    """Tensors outside the layers of which there is one for each layer, or for each step between two.

    Those numbered after the last layer are not among them; they move with it.
    """
    found: dict[str, set[int]] = defaultdict(set)
    for name in outside:
        for match in re.finditer(r"(?<![^.])\d+(?![^.])", name):
            found[f"{name[: match.start()]}*{name[match.end() :]}"].add(int(match[0]))
    counts = {stack.module.stack.count for stack in stacks if stack.module.stack}
    return [
        pattern
        for pattern, numbers in found.items()
        for count in counts
        if numbers == set(range(len(numbers))) and len(numbers) in (count - 1, count, count + 1) and count > 1
    ]


def _counted_alike(donor: Layout, changed: Sequence[NewStack]) -> list[str]:
    """Stacks that stay as they are, whose length the config states in the same place as that of a changed one."""
    places = {
        place
        for stack in changed
        if stack.module.stack and len(stack.sources) != stack.module.stack.count
        for place in donor.counts(stack.module.stack)
    }
    names = [stack.module.name for stack in changed]
    kept = [module.stack for module in donor.modules.values() if module.stack and module.name not in names]
    return [f"{stack.prefix}*" for stack in kept if places & {*donor.counts(stack)}]


def _grown(built: BuiltModel, donor: BuiltModel | None, stacks: Sequence[NewStack]) -> list[str]:
    """Lists of modules whose length the new config changes, if they are more than the new stacks."""
    lengths = {name: len(numbers) for name, numbers in donor.layers.items()} if donor else {}
    grown = [
        name for name, numbers in built.layers.items() if len(numbers) != lengths.get(name, len(numbers))
    ]
    return grown if len(grown) > len(stacks) else []


def _write_lists(
    config: dict[str, Any],
    donor: Layout,
    stacks: Sequence[NewStack],
    built: BuiltModel,
    known: Mapping[int, BuiltModel | None],
) -> bool:
    """Write out what the class derives for each layer; returns whether anything was written."""
    written = False
    for stack in stacks:
        assert stack.module.stack
        for path, _ in donor.counts(stack.module.stack):
            for key in built.lists:
                own = [
                    (model.lists.get(key), n) for source, n in stack.sources if (model := known[id(source)])
                ]
                if any(entries is None or layer >= len(entries) for entries, layer in own):
                    continue
                wanted = [entries[layer] for entries, layer in own if entries]
                if wanted != list(built.lists[key]):
                    part_at(config, path)[key] = wanted
                    written = True
    return written


def _uncounted(donor: Layout, stack: NewStack) -> Problem | None:
    """A problem if a config says neither how many layers a stack has nor anything of each of them."""
    own = stack.module.stack
    assert own
    if len(stack.sources) == own.count or not donor.config.keys() & {"architectures", "model_type"}:
        return None
    if donor.counts(own) or facts(donor.config, own.count):
        return None
    return Problem("layer-count-unstated", {"before": own.count, "count": len(stack.sources)})


def _unexplained(stack: NewStack, shapes: Mapping[int, Shapes]) -> Problem | None:
    """A problem if layers of a source differ in their tensors and its config does not say how."""
    for layout in {id(layout): layout for layout, _ in stack.sources}.values():
        own = stack.of(layout)
        if own is None or not layout.config.keys() & {"architectures", "model_type"}:
            continue
        groups: list[set[tuple[str, tuple[int, ...]]]] = [set() for _ in range(own.count)]
        for name, shape in shapes[id(layout)].items():
            if place := own.split(name):
                groups[place[0]].add((place[1], shape))
        said = facts(_part_of(layout, stack, ())[0], own.count).values()
        kinds: dict[str, set[tuple[str, tuple[int, ...]]]] = {}
        for number, group in enumerate(groups):
            kind = repr([entries[number] for entries in said])
            if kinds.setdefault(kind, group) != group:
                return _other_kind(number)
    return None


def _conflict(conflict: Conflict) -> Problem:
    code = {"period": "layer-period", "first": "first-layers", "last": "last-layers"}.get(
        conflict.why, "layer-pattern"
    )
    return Problem(code, {"key": conflict.key, "value": conflict.value})


def _other_kind(layer: int) -> Problem:
    return Problem("layer-kinds", {"layer": layer})


def _table(names: Sequence[str]) -> Problem:
    return Problem("table-of-layers", {"tensor": names[0]}, names[0])

"""What each tensor gets, for people to look at: every parameter's resolved value over layers and kinds of tensors.

Kinds that get the same stand together: 48 layers of 9 tensors with a gradient for attention are two rows and a third
for what stands outside the layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from merging.methods import METHODS, Parameter
from merging.plan import Plan, PlannedTensor

# Layers whose values are all named in a line.
MOST_SHOWN = 8

Value = bool | int | float | str


@dataclass(frozen=True)
class Copy:
    """A tensor that is copied from one model; parameters have no effect on it."""

    model: str


@dataclass(frozen=True)
class Row:
    """Kinds of tensors that get the same values: one for each layer, or a single one outside the layers."""

    label: str
    cells: tuple[Value | Copy, ...]
    in_layers: bool


def resolved(plan: Plan) -> Iterator[tuple[str, tuple[Row, ...]]]:
    """For each parameter, and each model that has its own: a title and the rows."""
    if plan.mixture:  # of copies
        return
    method = METHODS[plan.method]
    counted = max((len(tensor.inputs) for tensor in plan.tensors), default=0)
    for parameter in method.parameters:
        if not parameter.per_model:
            yield parameter.name, rows_of(plan, parameter, None)
            continue
        owners = _owners(plan, counted)
        for place, owner in enumerate(owners):
            yield f"{parameter.name}: {owner}", rows_of(plan, parameter, place)
    if not method.parameters:
        yield method.title, rows_of(plan, None, None)


def as_data(plan: Plan) -> dict[str, list[dict[str, object]]]:
    """The same for programs: for each title its rows, with a value for each layer, or one outside the layers."""
    return {
        title: [
            {
                "tensors": row.label,
                "values": [f"copied from {c.model}" if isinstance(c, Copy) else c for c in row.cells],
                "by_layer": row.in_layers,
            }
            for row in rows
        ]
        for title, rows in resolved(plan)
    }


def in_words(row: Row) -> str:
    """A row in a line: its one value, or the values of its layers; of many layers, those at equal distances."""
    words = [_word(cell) for cell in row.cells]
    if len(set(words)) == 1:
        return words[0]
    last = len(words) - 1
    shown = range(len(words)) if last <= MOST_SHOWN else (round(i * last / 4) for i in range(5))
    return ", ".join(f"{words[layer]} (layer {layer})" for layer in shown)


def _word(cell: Value | Copy) -> str:
    if isinstance(cell, Copy):
        return f"{cell.model} as it is"
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"{cell:.4g}" if isinstance(cell, int | float) else str(cell)


def rows_of(plan: Plan, parameter: Parameter | None, place: int | None) -> tuple[Row, ...]:
    """The kinds of tensors with what they get, kinds that get the same together.

    Args:
        plan: with tensors
        parameter: of its method; None: only say what is copied
        place: of the model among those with a value of their own; None: shared by all
    """
    inside: dict[str, dict[int, Value | Copy]] = defaultdict(dict)
    outside: dict[str, Value | Copy] = {}
    for tensor in plan.tensors:
        value = _value(plan, tensor, parameter, place)
        if tensor.layer is None:
            outside[tensor.name.removesuffix(".weight")] = value
        else:
            kind = tensor.name.partition(f".{tensor.layer}.")[2].removesuffix(".weight")
            inside[kind][tensor.layer] = value
    alike: dict[tuple[Value | Copy, ...], list[str]] = defaultdict(list)
    for kind, cells in inside.items():
        alike[tuple(cells[layer] for layer in sorted(cells))].append(kind)
    rows = [Row(_together(kinds, inside), cells, True) for cells, kinds in alike.items()]
    single: dict[Value | Copy, list[str]] = defaultdict(list)
    for name, value in outside.items():
        single[value].append(name.rpartition(".")[2] if name.count(".") else name)
    return (
        *rows,
        *(Row(", ".join(dict.fromkeys(names)), (value,), False) for value, names in single.items()),
    )


def _value(plan: Plan, tensor: PlannedTensor, parameter: Parameter | None, place: int | None) -> Value | Copy:
    if tensor.copied_from is not None:
        return Copy(last_part(plan.models[tensor.inputs[tensor.copied_from].model].name))
    value = tensor.parameters.get(parameter.name) if parameter else ""
    if isinstance(value, list):
        value = value[place or 0] if (place or 0) < len(value) else ""
    return "" if value is None else value


def _owners(plan: Plan, counted: int) -> list[str]:
    """Which model each place of a list of values belongs to."""
    full = next((t for t in plan.tensors if len(t.inputs) == counted), None)
    if full is None:
        return []
    method = METHODS[plan.method]
    arguments = {p.argument: full.parameters[p.name] for p in method.parameters if full.parameters}
    base = bool(arguments) and method.subtracts(counted, arguments)
    return [last_part(plan.models[part.model].name) for part in full.inputs[base:]]


def _together(kinds: Sequence[str], everything: Mapping[str, object]) -> str:
    """A name for kinds: `self_attn` where all of them are meant, else `self_attn.q_proj`."""
    names = []
    for kind in kinds:
        head = kind.partition(".")[0]
        whole = all(other in kinds for other in everything if other.partition(".")[0] == head)
        names.append(head if whole else kind)
    return ", ".join(dict.fromkeys(names))


def last_part(name: str) -> str:
    """Of a model's name or folder."""
    return name.rstrip("/").rpartition("/")[2]

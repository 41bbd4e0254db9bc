"""What a config says of each layer, in whichever form it says it, and the same said of another stack of layers.

Configs tell layers apart by lists with an entry for each layer, lists of layer numbers, mappings keyed by layer,
patterns that repeat, and numbers: a period, how many come first or last. Each form is one rule, which reads a fact for
every layer and, where it can, writes a value that says the given facts of a new stack. There is no table of
architectures: a rule is chosen by the value and the words in its key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from checkpoints.architecture import LAYER_COUNT_KEYS

# Lists that may be as long as the stack by chance.
NOT_BY_LAYER = re.compile(r"architectures|token_ids?$|token_index$|^id2label$|^label2id$")
# Words in the key of a list of layer numbers.
LAYER_NUMBERS = re.compile(r"layer|block|indices|idxs|indexes")
# Words in the keys that lead to a list with an entry for each layer, inside another mapping.
BY_LAYER = re.compile(r"layer|block|types|pattern")
# Words in the key of a pattern that repeats, or of a string with a letter for each layer.
PATTERN = re.compile(r"pattern|block_types|layer_types|layers_block_type|layout")
# Words in the key of a number that says after how many layers a kind of layer returns. A time step is none.
PERIOD = re.compile(r"interval|period|freq|(?<!time_)step$|pattern|every_n|(^|_)every(_|$)")
# Words in the key of a number that says how many layers come first, the first one that is different, the last one, and
# how many come last.
FIRST = re.compile(r"first_k|first_n|first_\w*layers|(num|n)_dense|dense_layers$|hash_layers$|n_layer_dense")
START = re.compile(r"layer_start|start_layer|layers?_start_index")
END = re.compile(r"layer_end|end_layer|layers?_end_index")
LAST = re.compile(r"last_k|last_n|last_\w*layers|shared_layers$")

# The keys that lead to a value in a part of a config.
Key = tuple[str, ...]
# A fact about each layer, comparable between stacks.
Facts = list[Any]


class Conflict(NamedTuple):
    """A value that cannot be made to say of a new stack what it said of the layers' sources.

    Args:
        key: where the value is in the config, with dots
        value: as the source's config has it
        why: "period", "first", "last", "pattern" or "unclear"
    """

    key: str
    value: Any
    why: str


class _Form(NamedTuple):
    """A value as a rule understands it.

    Args:
        facts: of each layer
        write: makes the value that says these facts of a stack; None if there is none
        why: the kind of conflict if there is none
    """

    facts: Facts
    write: Callable[[Facts], Any | None]
    why: str


def restacked(
    part: Mapping[str, Any], sources: Sequence[tuple[Mapping[str, Any], int, int]], count: int
) -> tuple[dict[str, Any], list[Conflict]]:
    """The part of a config that speaks of a stack, for a stack made of other layers.

    Args:
        part: of the config that the result's is made from
        sources: for each layer of the result, the same part of its source's config, the number of the layer there and
            how many layers that has
        count: of layers that `part` speaks of

    Returns:
        A copy with every value rewritten that says something of layers, and what could not be rewritten.
    """
    result = _copy(part)
    conflicts = []
    for key in _keys(part, count, sources):
        value = _get(part, key)
        forms = {id(own): _form(key, _get(own, key), length, own) for own, _, length in sources}
        form = _form(key, value, count, part) or next(found for found in forms.values() if found)
        wanted = [_fact(forms[id(own)] or form, layer) for own, layer, _ in sources]
        written = form.write(wanted)
        is_clear = value is not None and all(forms.values())
        again = _form(key, written, len(sources), part, like=value) if written is not None else None
        if again and again.facts == wanted:
            _set(result, key, written)
        if not is_clear or not again or again.facts != wanted:
            said = (_get(own, key) for own, *_ in sources)
            shown = value if value is not None else next(theirs for theirs in said if theirs is not None)
            conflicts.append(Conflict(".".join(key), shown, form.why if is_clear else "unclear"))
    return result, conflicts


def _fact(form: _Form, layer: int) -> Any:
    return form.facts[layer] if layer < len(form.facts) else None


def _keys(
    part: Mapping[str, Any], count: int, sources: Sequence[tuple[Mapping[str, Any], int, int]]
) -> list[Key]:
    """Keys of everything that says something of layers, in the order of the configs."""
    parts = {id(part): (part, count)} | {id(own): (own, length) for own, _, length in sources}
    return list(dict.fromkeys(key for own, length in parts.values() for key in facts(own, length)))


def facts(part: Mapping[str, Any], count: int) -> dict[Key, Facts]:
    """What a config says of each of its `count` layers."""
    return dict(_facts(part, count, part, ()))


def _facts(
    inner: Mapping[str, Any], count: int, part: Mapping[str, Any], above: Key
) -> Iterator[tuple[Key, Facts]]:
    for name, value in inner.items():
        key = (*above, name)
        if form := _form(key, value, count, part):
            yield key, form.facts
        elif isinstance(value, dict) and not value.keys() & set(LAYER_COUNT_KEYS):
            yield from _facts(value, count, part, key)


# -- the forms -------------------------------------------------------------------------------------------


def _form(key: Key, value: Any, count: int, part: Mapping[str, Any], like: Any = None) -> _Form | None:
    """How a value speaks of layers; None if it does not.

    Args:
        like: a value of the same key whose form is meant, where `value` alone would not tell
    """
    name = key[-1]
    if NOT_BY_LAYER.search(name) or count < 1:
        return None
    if isinstance(value, dict):
        return _keyed_by_layer(value, count, like)
    if isinstance(value, str):
        return _letters(name, value, count)
    if isinstance(value, list):
        return (
            _layer_numbers(key, value, count, part, like)
            or _entry_for_each(key, value, count)
            or _repeats(name, value, count)
            or _runs(value, count)
        )
    if type(value) is int:
        return _number(name, value, count)
    return None


def _entry_for_each(key: Key, value: list[Any], count: int) -> _Form | None:
    """A list with an entry for each layer. Inside other mappings it has to speak of layers: the sections of a rotary
    embedding may be as many as there are layers."""
    if len(value) != count or (len(key) > 1 and not any(map(BY_LAYER.search, key))):
        return None
    return _Form(list(value), list, "pattern")


def _layer_numbers(
    key: Key, value: list[Any], count: int, part: Mapping[str, Any], like: Any = None
) -> _Form | None:
    """A list of the layers that are special, counted from 0 or from 1, as numbers or as text."""
    if not value and not (isinstance(like, list) and like):
        return None
    as_text = all(isinstance(item, str) and item.isdigit() for item in (value or like))
    numbers = [int(item) for item in value] if as_text else value
    whole = all(type(number) is int for number in numbers)
    if not whole or numbers != sorted(set(numbers)) or not all(0 <= n <= count for n in numbers):
        return None
    if not LAYER_NUMBERS.search(key[-1]):
        return None
    first = _first_number(key, part)
    if numbers and not first <= numbers[0] <= numbers[-1] < first + count:
        return None

    def write(wanted: Facts) -> list[Any]:
        found = [number + first for number, is_listed in enumerate(wanted) if is_listed]
        return [str(number) for number in found] if as_text else found

    return _Form([number + first in numbers for number in range(count)], write, "unclear")


def _first_number(key: Key, part: Mapping[str, Any]) -> int:
    """Whether lists of layers here count from 0 or from 1: the lists beside this one tell, if one begins or ends so."""
    beside = _get(part, key[:-1]) if len(key) > 1 else part
    lists = [
        value for name, value in beside.items() if isinstance(value, list) and LAYER_NUMBERS.search(name)
    ]
    numbers = [item for value in lists for item in value if type(item) is int]
    whole = sorted(numbers)
    return 1 if whole and len(lists) > 1 and whole == list(range(1, len(whole) + 1)) else 0


def _keyed_by_layer(value: dict[str, Any], count: int, like: Any = None) -> _Form | None:
    """A mapping with layers' numbers as keys, alone or behind the same word."""
    matches = {key: re.fullmatch(r"(\D*)(\d+)", str(key)) for key in value or (like or {})}
    if not matches or not all(matches.values()):
        return None
    [*words] = {match[1] for match in matches.values() if match}
    if len(words) > 1 or any(int(match[2]) >= count for match in matches.values() if match and value):
        return None
    [word] = words
    found = {int(match[2]): value[key] for key, match in matches.items() if match and value}

    def write(wanted: Facts) -> dict[str, Any]:
        return {f"{word}{number}": fact for number, fact in enumerate(wanted) if fact is not None}

    return _Form([found.get(number) for number in range(count)], write, "pattern")


def _letters(name: str, value: str, count: int) -> _Form | None:
    """A string with a letter for each layer, or for each of a pattern that repeats."""
    if not PATTERN.search(name) or not len(value) > 1:
        return None
    if len(value) != count and count % len(value):
        return None
    return _Form([value[number % len(value)] for number in range(count)], "".join, "pattern")


def _repeats(name: str, value: list[Any], count: int) -> _Form | None:
    """A pattern that is shorter than the stack, and repeats."""
    if not PATTERN.search(name) or not 1 < len(value) < count:
        return None
    if not all(isinstance(item, str | int) for item in value):
        return None
    return _Form([value[number % len(value)] for number in range(count)], list, "pattern")


def _runs(value: list[Any], count: int) -> _Form | None:
    """Pairs of a pattern and how often it is repeated."""
    pairs = [item for item in value if isinstance(item, list) and len(item) == 2]
    if not pairs or len(pairs) < len(value):
        return None
    if not all(isinstance(pattern, list) and type(times) is int for pattern, times in pairs):
        return None
    found = [kind for pattern, times in pairs for kind in pattern * times]
    if len(found) != count:
        return None
    return _Form(found, lambda wanted: [[list(wanted), 1]], "pattern")


def _number(name: str, value: int, count: int) -> _Form | None:
    if LAST.search(name) and 0 <= value <= count:
        return _Form([n >= count - value for n in range(count)], _trailing, "last")
    if (FIRST.search(name) or START.search(name)) and 0 <= value <= count:
        return _Form([n < value for n in range(count)], _leading, "first")
    if END.search(name) and value >= -1:
        whole = value < 0
        return _Form(
            [whole or n <= value for n in range(count)],
            lambda wanted: -1 if whole and all(wanted) else _up_to(wanted),
            "last",
        )
    if PERIOD.search(name) and value > 1:
        return _Form([n % value for n in range(count)], lambda _: value, "period")
    return None


def _leading(wanted: Facts) -> int | None:
    """How many come first; None if they do not all come first."""
    number = sum(map(bool, wanted))
    return number if all(wanted[:number]) else None


def _trailing(wanted: Facts) -> int | None:
    number = sum(map(bool, wanted))
    return number if all(wanted[len(wanted) - number :]) else None


def _up_to(wanted: Facts) -> int | None:
    """The last of those that come first."""
    number = _leading(wanted)
    return None if number is None else number - 1


# -- parts of configs ------------------------------------------------------------------------------------


def _get(part: Mapping[str, Any], key: Key) -> Any:
    value: Any = part
    for name in key:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _set(part: dict[str, Any], key: Key, value: Any) -> None:
    """Write a value, unless something else than a mapping is in its way."""
    for name in key[:-1]:
        part = part.setdefault(name, {})
        if not isinstance(part, dict):
            return
    part[key[-1]] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value

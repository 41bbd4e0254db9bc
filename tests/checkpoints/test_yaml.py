"""YAML of strangers: plain data, within limits, in time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest
import yaml

from checkpoints.yaml import (
    CARD,
    CHARACTERS_PER_VALUE,
    LONG,
    MAX_DEPTH,
    MAX_LONG,
    RECIPE,
    YamlError,
    compose,
    compose_card,
    documents,
    load,
)

BOMB = "a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}], y{i}: 1}}\n" for i in range(1, 30)
)
REFUSED = {
    "aliases of aliases": (BOMB, "too-many-values"),
    "merges of merges": (MERGES, "too-many-values"),
    "an alias inside what it names": ("a: &a {b: [*a]}", "endless-alias"),
    "an alias that merges itself": ("&a\n<<: *a", "endless-alias"),
    "brackets": ("[" * 150_000, "too-deep"),
    "braces": ("{a: " * 40_000, "too-deep"),
    "dashes": ("- " * 90_000 + "1", "too-deep"),
    "question marks": ("? " * 90_000 + "1", "too-deep"),
    "length": ("a" * (CARD + 1), "too-long"),
    "Python": ("!!python/object/apply:os.system [ls]", "yaml-tag"),
    "a number that is none": ("!!int x", "yaml-tag"),
    "a date that is none": ("!!timestamp x", "yaml-tag"),
    "a key that is a list": ("{[1]: 2}", "yaml"),
    "a control character": ("a: \x07", "yaml"),
    "no such alias": ("*a", "yaml"),
    "two documents": ("a\n---\nb", "yaml"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_exceeds_a_limit_is_refused_in_time(what: str) -> None:
    text, code = REFUSED[what]
    began = time.thread_time()
    with pytest.raises(YamlError) as caught:
        load(text)

    assert caught.value.problems[0].code == code
    assert time.thread_time() - began < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-2E3", -2000.0),
        ("2024-02-31", "2024-02-31"),
        ("0x_", "0x_"),
        ("9" * 5000, "9" * 5000),
        ("0x10", 16),
        ("yes", True),
        ("", None),
        ("{a: &x [1, 2], b: *x}", {"a": [1, 2], "b": [1, 2]}),
    ],
)
def test_values_are_plain(text: str, value: object) -> None:
    assert load(text) == value


def test_limits_leave_room() -> None:
    deep = "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)
    assert compose(deep)
    with pytest.raises(YamlError):
        compose(f"[{deep}]")
    most = RECIPE // CHARACTERS_PER_VALUE
    assert len(load(f"[{'1,' * (most - 1)}]")) == most - 1
    with pytest.raises(YamlError):
        load(f"[{'1,' * most}]")
    assert len(load(f"[{'1,' * most}]", CARD)) == most


def test_a_text_is_read_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    count: list[None] = []
    composed = yaml.SafeLoader.compose_node
    counted = lambda *given: (count.append(None), composed(*given))[1]  # noqa: E731
    monkeypatch.setattr(yaml.composer.Composer, "compose_node", counted)

    first = load("a: {b: 1}  # once")
    first["a"]["b"] = 2  # its caller's alone
    before = len(count)

    assert load("a: {b: 1}  # once") == {"a": {"b": 1}}
    assert len(count) == before > 0
    for _ in range(2):
        with pytest.raises(YamlError):
            load(f"[{'1,' * (RECIPE // CHARACTERS_PER_VALUE)}]  # refused once")
    assert len(count) < before + 1.5 * RECIPE // CHARACTERS_PER_VALUE


def test_texts_are_read_one_at_a_time_and_few_long_recipes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, goes_on = threading.Event(), threading.Event()
    composed = yaml.SafeLoader.compose_node

    def slowly(*given: Any) -> Any:
        at_work.set()
        assert goes_on.wait(60)
        return composed(*given)

    monkeypatch.setattr(yaml.composer.Composer, "compose_node", slowly)
    long = "# " + "a" * LONG
    with ThreadPoolExecutor(MAX_LONG + 1) as pool:
        first = pool.submit(load, f"1 {long}")
        assert at_work.wait(60)
        others = [pool.submit(load, f"2 {long}") for _ in range(MAX_LONG)]
        short = pool.submit(load, "3")

        # One of the long ones is refused at once, and everything else waits for the one that is at work.
        done, waiting = wait([*others, short], return_when=FIRST_COMPLETED)
        [refused] = done
        error = refused.exception()
        assert isinstance(error, YamlError) and error.problems[0].code == "too-many-recipes"
        assert not any(each.done() for each in [first, *waiting])
        goes_on.set()
    assert first.result() == 1 and short.result() == 3
    assert [each.result() for each in others if each is not refused] == [2] * (MAX_LONG - 1)


def test_documents_know_what_aliases_name() -> None:
    found = documents("a: &a 1\nb: *a\n---\n---\nc: &c 2\n")

    assert len(found.nodes) == 2
    assert found.aliased == {id(found.nodes[0].value[0][1])}


def test_a_card_keeps_the_types_of_its_values() -> None:
    """What is written back must be what was there: a date stays a date."""
    root = compose_card("date: 2024-01-01\nsmall: 1e-5")
    assert root is not None
    assert [value.tag.rpartition(":")[2] for _, value in root.value] == ["timestamp", "str"]

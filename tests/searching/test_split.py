"""Documents in parts: by hash, near duplicates together, and none in two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from evaluation import EvaluationError
from searching.data import documents_of, messages_of, read_data
from searching.goals import PARTS, Goal, Settings, Shares
from searching.split import Document, near_duplicates, part_of, split_documents

WORDS = [
    "river",
    "stone",
    "lamp",
    "garden",
    "winter",
    "ladder",
    "copper",
    "violin",
    "harbour",
    "meadow",
    "engine",
    "candle",
    "bridge",
    "forest",
    "mirror",
]


def document(number: int) -> str:
    """A text of its own."""
    return " ".join(f"{WORDS[(number * 7 + step * step) % 13]}{number}x{step}" for step in range(20))


TEXTS = [document(number) for number in range(400)]


def test_shares_are_kept_about() -> None:
    found = split_documents({"a": TEXTS}, Shares(0.5, 0.2, 0.3))["a"]

    counts = [sum(one.part == part for one in found) for part in ("search", "choice", "report")]
    assert [count / 400 for count in counts] == pytest.approx([0.5, 0.2, 0.3], abs=0.07)


def test_adding_a_document_moves_no_other() -> None:
    before = {one.text: one.part for one in split_documents({"a": TEXTS[:100]}, Shares())["a"]}
    after = {one.text: one.part for one in split_documents({"b": TEXTS[:300]}, Shares())["b"]}

    assert all(after[text] == part for text, part in before.items())
    assert all(part_of(text, Shares()) == part for text, part in before.items())


def counts_of(documents: Iterable[Document]) -> list[int]:
    parts = [one.part for one in documents]
    return [parts.count(part) for part in PARTS]


@pytest.mark.parametrize("size", range(3, 99))
def test_a_short_text_is_cut_by_count(size: int) -> None:
    counts = counts_of(split_documents({"a": TEXTS[:size]}, Shares(0.5, 0.2, 0.3))["a"])

    assert all(abs(count - size * share) <= 1 for count, share in zip(counts, (0.5, 0.2, 0.3), strict=True))
    assert min(counts) >= 1


def test_shares_of_a_short_text_by_hand() -> None:
    assert counts_of(split_documents({"a": TEXTS[:24]}, Shares(0.5, 0.2, 0.3))["a"]) == [12, 5, 7]
    assert counts_of(split_documents({"a": TEXTS[:10]}, Shares(0.2, 0.2, 0.6))["a"]) == [2, 2, 6]
    # One for each part, and the rest where the shares say.
    assert counts_of(split_documents({"a": TEXTS[:4]}, Shares(0.9, 0.05, 0.05))["a"]) == [2, 1, 1]


def test_adding_a_document_to_a_short_text_moves_at_most_one_at_each_cut() -> None:
    for size in range(3, 98):
        before = {one.text: one.part for one in split_documents({"a": TEXTS[:size]}, Shares())["a"]}
        after = {one.text: one.part for one in split_documents({"a": TEXTS[: size + 1]}, Shares())["a"]}
        moved = [(before[text], after[text]) for text in before if before[text] != after[text]]
        assert len(moved) <= 2 and len({frozenset(pair) for pair in moved}) == len(moved), size


def test_near_duplicates_of_short_texts_are_in_one_part() -> None:
    """Copies of a document, in its own text and in another one, go where it goes."""
    for seed in range(20):
        some = [*TEXTS[:12], f"{TEXTS[0]}!", TEXTS[0].upper(), f"{TEXTS[5]} x"]
        shares = Shares(seed=seed)
        divided = split_documents({"b": [TEXTS[5].upper(), *TEXTS[20:32]], "a": some}, shares)
        found = {one.text: one.part for text in divided.values() for one in text}
        assert found[TEXTS[0]] == found[f"{TEXTS[0]}!"] == found[TEXTS[0].upper()]
        assert found[TEXTS[5]] == found[f"{TEXTS[5]} x"] == found[TEXTS[5].upper()]
        assert min(map(min, map(counts_of, divided.values()))) >= 1


def test_parts_of_a_short_text_do_not_follow_its_order() -> None:
    texts = {"a": TEXTS[:15], "b": TEXTS[10:30]}
    turned = {name: found[::-1] for name, found in reversed(texts.items())}
    one, two = (split_documents(given, Shares()) for given in (texts, turned))

    for name, found in one.items():
        assert {d.text: d.part for d in found} == {d.text: d.part for d in two[name]}
    assert counts_of(split_documents({"a": TEXTS[:15]}, Shares(seed=1))["a"]) == counts_of(
        split_documents({"a": TEXTS[:15]}, Shares())["a"]
    )


def test_another_seed_draws_other_parts() -> None:
    parts = [[one.part for one in split_documents({"a": TEXTS}, Shares(seed=seed))["a"]] for seed in (0, 1)]

    assert sum(one != other for one, other in zip(*parts, strict=True)) > 150


@pytest.mark.parametrize(
    ("changed", "alike"),
    [
        (lambda text: text.upper() + " !!", True),
        (lambda text: text.replace("x7", "x77"), True),
        (lambda text: "One more sentence stands in front of it. " + text, True),
        (lambda text: text[: len(text) // 2] + document(999)[len(text) // 2 :], False),
    ],
)
def test_near_duplicates_are_one_group(changed: object, alike: bool) -> None:
    text = TEXTS[3]
    other = changed(text)  # type: ignore[operator]

    groups = near_duplicates([*TEXTS[:3], text, *TEXTS[4:9], other])

    assert ((3, 9) in groups) is alike
    assert len(groups) == (9 if alike else 10)


def test_near_duplicates_of_two_texts_are_in_one_part() -> None:
    texts = {"a": TEXTS, "b": [f"{text}." for text in reversed(TEXTS)]}
    found = split_documents(texts, Shares())

    parts = {one.text: one.part for one in found["a"]}
    assert all(parts[one.text.removesuffix(".")] == one.part for one in found["b"])


def test_equal_documents_of_a_text_count_once() -> None:
    assert len(split_documents({"a": ["same text"] * 3 + ["another one"]}, Shares())["a"]) == 2


@pytest.mark.parametrize("change", ["", "?"])
def test_a_document_in_two_given_parts_is_refused(change: str) -> None:
    given = {"a": {"search": TEXTS[:5], "choice": TEXTS[5:8], "report": [*TEXTS[8:20], TEXTS[2] + change]}}

    with pytest.raises(EvaluationError) as raised:
        split_documents({}, Shares(), given)  # type: ignore[arg-type]

    (problem,) = raised.value.problems
    assert problem.code == "document-in-two-parts"
    assert (problem.values["one"], problem.values["other"]) == ("search", "report")
    assert TEXTS[2][:30] in problem.message


def test_a_text_that_is_drawn_follows_one_that_is_given() -> None:
    given = {"a": {"search": TEXTS[:5], "choice": TEXTS[5:8], "report": TEXTS[8:20]}}

    found = split_documents({"b": [TEXTS[9], TEXTS[0]]}, Shares(), given)["b"]  # type: ignore[arg-type]

    assert [one.part for one in found] == ["report", "search"]


def settings(*goals: Goal) -> Settings:
    return Settings(goals)


def test_files_are_read_as_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:60]) + "\n\n\n")
    lines = [f'{{"text": "{text}"}}' for text in TEXTS[60:100]]
    message = '{"messages": [{"role": "user", "content": "Hello there, number %d"}]}'
    (tmp_path / "b.jsonl").write_text("\n".join([*lines, *(message % (7 * one) for one in range(20))]))

    data = read_data(settings(Goal("a", "text", "a.txt"), Goal("b", "text", "b.jsonl")), folder=tmp_path)

    assert sum(data.counts()["a"].values()) == 60
    assert {one.text for one in data.documents["a"]} == set(TEXTS[:60])
    assert any(one.text.startswith('[{"role": "user"') for one in data.documents["b"])


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.txt", "one\r\n\r\ntwo\r\nlines\r\n", ["one", "two\nlines"]),
        ("a.txt", "one\n  \t\ntwo\n\n \n\nthree 🏴‍☠️", ["one", "two", "three 🏴‍☠️"]),
        ("a.jsonl", '{"text": "one"}\r\n\r\n"two\u2028lines\x85"\r\n', ["one", "two\u2028lines\x85"]),
    ],
)
def test_lines_end_in_the_ways_of_other_systems(name: str, content: str, documents: list[str]) -> None:
    assert documents_of(name, content) == documents


def test_a_line_is_counted_with_those_that_are_blank() -> None:
    with pytest.raises(EvaluationError, match=r"Line 3 of a\.jsonl is no document"):
        documents_of("a.jsonl", '{"text": "one"}\n\nnot json')


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl", '{"text": "one"}\nnot json', "not-a-document"),
        ("a.jsonl", '{"words": "one"}', "not-a-document"),
        ("a.jsonl", "[" * 100_000, "not-a-document"),
        ("a.txt", "", "empty-file"),
        ("a.txt", "Only one paragraph.", "text-too-small"),
        ("a.txt", "\n\n".join(TEXTS[:9]), "text-too-small"),
        ("b.txt", "x", "text-unreadable"),
    ],
)
def test_what_is_wrong_with_a_text(tmp_path: Path, name: str, content: str, code: str) -> None:
    (tmp_path / name).write_text(content)
    source = "a.txt" if name == "b.txt" else name

    with pytest.raises(EvaluationError) as raised:
        read_data(settings(Goal("a", "text", source)), folder=tmp_path)

    assert raised.value.problems[0].code == code


def test_files_and_functions_of_this_machine_can_be_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:60]))
    for goal in (Goal("a", "text", "a.txt"), Goal("a", "python", "judge.py:score")):
        with pytest.raises(EvaluationError):
            read_data(settings(goal), folder=tmp_path, allow_folders=False)

    with pytest.raises(EvaluationError, match="'pile' is not asked on this server"):
        read_data(settings(Goal("a", "task", "pile")), allow_folders=False)
    given = read_data(settings(Goal("a", "text", "a.txt")), texts={"a.txt": TEXTS}, allow_folders=False)
    assert len(given.documents["a"]) == 400


def test_the_order_of_documents_does_not_follow_the_file() -> None:
    one, two = (
        read_data(settings(Goal("a", "text", "a")), texts={"a": texts}).documents["a"]
        for texts in (TEXTS, TEXTS[::-1])
    )

    assert one == two
    assert [document.text for document in one] != sorted(document.text for document in one)


@pytest.mark.parametrize(
    "text", ['[{"role"', '[{"role": 1}]', '[{"role": ' + "[" * 9999, '[{"role": 7, "content": "x"}]']
)
def test_a_text_that_only_begins_like_a_conversation_is_a_text(text: str) -> None:
    assert messages_of(text) is None

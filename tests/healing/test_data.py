"""Texts to train on, the order they are read in, and the guard against judging on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation import EvaluationError, load_model
from evaluation.text import bundled_text
from healing import Dataset, data
from healing.data import (
    PYTHON_TOPICS,
    Row,
    check_apart,
    document_of,
    held_out,
    judged_documents,
    not_seen,
    places,
    read_rows,
    windows,
)
from healing.settings import KINDS


def read_documents(datasets: list[Dataset], folder: Path) -> list[str]:
    return [document_of(row) for row in read_rows(datasets, KINDS["distillation"], folder)]


def test_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nStill one.")
    lines = [
        {"text": "Two."},
        "Three.",
        {"messages": [{"role": "user", "content": "Four?"}, {"role": "assistant", "content": "4"}]},
    ]
    (tmp_path / "b.jsonl").write_text("\n\n".join(map(json.dumps, lines)))

    found = read_documents([Dataset("a.txt"), Dataset("b.jsonl")], tmp_path)

    assert found == ["One.\n\nStill one.", "Two.", "Three.", "Four?\n\n4"]
    assert len(read_documents([Dataset(PYTHON_TOPICS)], tmp_path)) > 50


@pytest.mark.parametrize(
    "line", ["{", "{}", '{"text": 3}', '{"messages": []}', '{"messages": [{"role": "user"}]}', '""']
)
def test_a_line_that_is_no_document_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "One."}}\n{line}\n')

    with pytest.raises(EvaluationError, match=r"(Line|Row) 2 of a\.jsonl"):
        read_documents([Dataset("a.jsonl")], tmp_path)


@pytest.mark.parametrize("name", ["HAERAE-HUB/KMMLU", "openai/gsm8k", "allenai/ai2_arc", "Rowan/hellaswag"])
def test_benchmarks_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="is a benchmark"):
        read_documents([Dataset(name)], tmp_path)


def test_bundled_texts_are_refused_by_name_and_by_content(tmp_path: Path) -> None:
    judged = judged_documents(["english"], tmp_path)
    with pytest.raises(EvaluationError, match="judged on what it was trained on: korean"):
        read_documents([Dataset("korean")], tmp_path)

    hidden = f"Something before. {bundled_text('english')[3].upper()} And behind."
    with pytest.raises(EvaluationError) as refused:
        check_apart(["Something else.", hidden], judged)
    assert refused.value.problems[0].values["texts"] == [" ".join(judged[3].split())[:60]]
    check_apart(read_documents([Dataset(PYTHON_TOPICS)], tmp_path), judged)


def test_sequences_hold_all_texts_with_ends_between(parent: Path) -> None:
    model = load_model(parent, device="cpu")
    texts = ["One text. " * 9, "Another. " * 12]
    stream = [token for text in texts for token in (*model.tokens(text), model.tokenizer.eos_token_id)]

    found = windows(model, texts, 8)

    assert found.flatten().tolist() == stream[: len(stream) // 8 * 8]
    with pytest.raises(EvaluationError, match="one sequence has 4,000"):
        windows(model, texts, 4000)


def test_each_pass_reads_everything_once_in_another_order() -> None:
    steps = [places(7, step, 2, seed=3) for step in range(7)]

    read = [number for step in steps for number in step]
    assert sorted(read[:7]) == sorted(read[7:]) == list(range(7))
    assert read[:7] != read[7:]
    assert places(7, 3, 2, seed=3) == steps[3]
    assert [places(7, step, 2, seed=4) for step in range(7)] != steps


def says(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{number}, as I said."} for number, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("kind", "row", "code"),
    [
        ("distillation", {"text": "One\0two."}, "row-null-character"),
        ("distillation", {"messages": says("user", "robot")}, "row-role"),
        ("sft", {"messages": says("user", "assistant", "assistant")}, "row-turns-repeat"),
        ("sft", {"prompt": says("user"), "completion": says("user")}, "row-turns-repeat"),
        ("sft", {"prompt": says("user"), "completion": says("system")}, "row-without-answer"),
        ("gold", {"messages": says("user", "assistant", "user")}, "row-without-answer"),
        ("dpo", {"prompt": "One?", "chosen": "Two.", "rejected": "Two."}, "row-answers-alike"),
        ("dpo", {"prompt": "One?", "chosen": says("assistant"), "rejected": says("user")}, "not-a-row"),
        ("dpo", {"chosen": says("user", "assistant"), "rejected": says("user")}, "row-without-answer"),
        ("orpo", {"prompt": "One?", "chosen": "Two."}, "not-a-row"),
        ("orpo", {"prompt": "One?", "rejected": "Two."}, "not-a-row"),
    ],
)
def test_a_row_that_teaches_nothing_is_named(kind: str, row: Row, code: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))

    with pytest.raises(EvaluationError, match=r"(?i)row 1 of a\.jsonl") as refused:
        read_rows([Dataset("a.jsonl")], KINDS[kind], tmp_path)

    assert refused.value.problems[0].code == code


def test_a_text_that_was_not_cut_into_documents_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_LARGEST_ROW", 1000)
    (tmp_path / "a.txt").write_text("word " * 201)

    with pytest.raises(EvaluationError, match="Cut it into documents"):
        read_documents([Dataset("a.txt")], tmp_path)


def test_files_of_windows_are_read_and_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    content = '\ufeff{"text": "One\u2028 and still one."}\r\n{"text": "Two."}\r\n'
    (tmp_path / "a.jsonl").write_bytes(content.encode())

    assert read_documents([Dataset("a.jsonl")], tmp_path) == ["One\u2028 and still one.", "Two."]


def test_instead_of_a_file_that_is_not_there_a_text_that_may_be_trained_on_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="name a bundled text: python-topics"):
        read_documents([Dataset("gone.jsonl")], tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text\nOne.\n", "is no file of a kind that is read"),
        ("a.json", b'[{"text": "One."}]', "is no file of a kind that is read"),
        ("a.jsonl", b"text\nOne.\n", "Line 1 of a.jsonl is no document"),
        ("a.jsonl", '{"text": "One."}'.encode("utf-16"), "not UTF-8"),
        ("a.jsonl", b'{"text": "One.", "text": "Two."}', "Line 1 of a.jsonl has `text` twice"),
        ("a.jsonl", b'{"text": "\\ud83d"}', "Line 1 of a.jsonl is no document"),
        ("a.jsonl", b"\n \n", "empty"),
    ],
)
def test_a_file_of_another_kind_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(EvaluationError, match=said):
        read_documents([Dataset(name)], tmp_path)


VOTE = {
    "left": "a",
    "right": "b",
    "message": "Hi?",
    "left_answer": "Ho.",
    "right_answer": "No.",
    "vote": "right",
}


def test_votes_of_the_chat_are_preferences(tmp_path: Path) -> None:
    votes = [VOTE, {**VOTE, "vote": "tie"}, {**VOTE, "vote": "left"}]
    (tmp_path / "votes.jsonl").write_text("\n".join(map(json.dumps, votes)))

    first, second = read_rows([Dataset("votes.jsonl")], KINDS["dpo"], tmp_path)

    assert first == {
        "prompt": [{"role": "user", "content": "Hi?"}],
        "chosen": [{"role": "assistant", "content": "No."}],
        "rejected": [{"role": "assistant", "content": "Ho."}],
    }
    assert second["chosen"] == first["rejected"]


@pytest.mark.parametrize(
    ("kind", "row", "is_read"),
    [
        ("sft", {"text": "One.", "id": 3}, True),
        ("sft", {"prompt": "One?", "completion": "Two."}, True),
        ("sft", {"prompt": "One?", "chosen": "Two.", "rejected": "Three."}, False),
        ("dpo", {"prompt": "One?", "chosen": "Two.", "rejected": "Three."}, True),
        ("dpo", {"prompt": "One?", "chosen": "Two.", "rejected": ""}, False),
        ("orpo", {"text": "One."}, False),
        ("gold", {"text": "One."}, False),
        (
            "gold",
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
            True,
        ),
    ],
)
def test_each_kind_has_its_rows(kind: str, row: Row, is_read: bool, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))

    if is_read:
        [found] = read_rows([Dataset("a.jsonl")], KINDS[kind], tmp_path)
        assert found == {name: value for name, value in row.items() if name != "id"}
        return
    with pytest.raises(EvaluationError, match=r"Row 1 of a\.jsonl is not a"):
        read_rows([Dataset("a.jsonl")], KINDS[kind], tmp_path)


def test_rows_of_two_forms_are_refused(tmp_path: Path) -> None:
    rows = [{"text": "One."}, {"prompt": "One?", "completion": "Two."}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))

    with pytest.raises(EvaluationError, match="prompt and completion"):
        read_rows([Dataset("a.jsonl")], KINDS["sft"], tmp_path)


def test_every_tenth_row_is_held_out_unless_it_is_trained_on() -> None:
    rows: list[Row] = [{"text": f"Row {number}. " + f"word{number} " * 9} for number in range(25)]
    trained, kept = held_out(rows)

    assert kept == [rows[9], rows[19]]
    assert len(trained) == 23
    assert not_seen(kept, trained) == kept
    assert not_seen(kept, [*trained, rows[19]]) == [rows[9]]

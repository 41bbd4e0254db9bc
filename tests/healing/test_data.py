"""Texts to train on, the order they are read in, and the guard against judging on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evaluation import EvaluationError, load_model
from evaluation.text import bundled_text
from healing import Dataset
from healing.data import PYTHON_TOPICS, batch, check_apart, judged_documents, read_documents, windows


def test_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nStill one.")
    lines = [
        {"text": "Two."},
        "Three.",
        {"messages": [{"role": "user", "content": "Four?"}, {"role": "x", "content": "4"}]},
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

    with pytest.raises(EvaluationError, match=r"Line 2 of a\.jsonl"):
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
    sequences = torch.arange(7)[:, None]

    steps = [batch(sequences, step, 2, seed=3).flatten().tolist() for step in range(7)]

    read = [number for step in steps for number in step]
    assert sorted(read[:7]) == sorted(read[7:]) == list(range(7))
    assert read[:7] != read[7:]
    assert batch(sequences, 3, 2, seed=3).flatten().tolist() == steps[3]
    assert [batch(sequences, step, 2, seed=4).flatten().tolist() for step in range(7)] != steps

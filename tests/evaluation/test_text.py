"""Texts: bundled, from files, from data sets; and every bad one answered by a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints.confined import Confined
from evaluation import EvaluationError, text
from evaluation.text import BUNDLED, bundled_text, dataset_texts, read_text


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_texts_are_documents_enough_for_an_interval(name: str) -> None:
    documents = bundled_text(name)

    assert len(documents) >= 10
    assert all(100 < len(document) < 1000 and document == document.strip() for document in documents)


def test_both_languages_are_bundled() -> None:
    assert BUNDLED == ("english", "korean")
    assert "등대" in bundled_text("korean")[0]


def test_a_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff하나\n\nTwo".encode())

    assert read_text(path) == "하나\n\nTwo"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("한글".encode("cp949"), "is not UTF-8: byte 0 .*cp949"),
        (b" \n", "is empty"),
        (None, r"cannot be read \(No such file.* english, korean"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(EvaluationError, match=words):
        read_text(path)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Twenty rows; every third has no text."""
    rows = [{"body": f"Document {i}" if i % 3 else " ", "n": i, "none": ""} for i in range(20)]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(tmp_path)


def test_the_first_rows_of_a_data_set_that_hold_text(dataset: str) -> None:
    found = list(dataset_texts(dataset, column="body", rows=4))

    assert found == ["Document 1", "Document 2", "Document 4", "Document 5"]
    assert len(list(dataset_texts(dataset, column="body", rows=1000))) == 13


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"column": "text"}, "no column 'text'. Expected one of: body, n, none"),
        ({"column": "n"}, "holds int, not text"),
        ({"column": "none"}, "has no text in the column 'none'"),
        ({"split": "dev"}, "cannot be read.*dev"),
        ({"rows": 0}, "rows=0"),
        ({"allow_folders": False}, "only data sets on the Hub"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused(
    dataset: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        list(dataset_texts(dataset, **settings))


def test_a_gated_data_set_wants_its_terms_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: Any, **__: Any) -> Callable[..., Any]:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)

    with pytest.raises(EvaluationError, match=r"a/b cannot be read\. It is gated: accept its terms"):
        list(dataset_texts("a/b"))


def test_on_a_server_a_data_set_is_read_in_a_process_of_its_own(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_ON_HUB", re.compile(".*"))  # so that a folder can stand for one on the Hub
    monkeypatch.setattr(text, "_documents", None)  # of this process

    found = dataset_texts(dataset, column="body", rows=4, allow_folders=False)

    assert list(found) == ["Document 1", "Document 2", "Document 4", "Document 5"]
    with pytest.raises(EvaluationError, match="no column 'text'"):
        list(dataset_texts(dataset, allow_folders=False))
    monkeypatch.setattr(
        text, "_read_apart", Confined(text.__name__, "read", seconds=1, memory=1 << 30, wait=0.01)
    )
    with pytest.raises(EvaluationError, match=r"takes more than 60 seconds or 4 GB"):
        list(dataset_texts(dataset, allow_folders=False))

"""Texts to train on, and the guard that none of them is judged on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints import Token
from checkpoints.json_value import RepeatedKeyError, parse_json
from checkpoints.problems import Place, Problem
from evaluation import EvaluationError, LanguageModel
from evaluation.text import BUNDLED, bundled_text, dataset_rows, read_text
from healing.settings import Dataset, Kind

# The manual that comes with every Python: 79 topics, in English, under the PSF licence.
PYTHON_TOPICS = "python-topics"
# Data sets that models are judged by.
_BENCHMARK = re.compile(
    r"k?mmlu|haerae|hellaswag|winogrande|\barc\b|ai2_arc|gsm8k|humaneval|truthfulqa|ifeval|kobest|piqa|boolq|\bbbh\b",
    re.IGNORECASE,
)
# Kinds of files that are read, and bytes of the largest row: more is a corpus that was not cut into documents.
_FILES = (".txt", ".md", ".jsonl")
_LARGEST_ROW = 16 << 20
_ANSWERS = ("completion", "chosen", "rejected")
_ROLES = ("system", "developer", "user", "assistant", "tool")
# One row in this many is held out.
_KEPT = 10
# Runs of this many words are compared, and a judged document that shares this much of them was trained on.
_RUN = 8
_SEEN = 0.3


Row = Mapping[str, Any]
# The forms of rows, by the columns that tell them, and as TRL knows them.
_FORMS = (
    ("prompt", "chosen", "rejected"),
    ("chosen", "rejected"),
    ("prompt", "completion"),
    ("messages",),
    ("text",),
)
# A vote of the Chat tab, as it is downloaded there.
_WANTED = {"texts": "rows-texts", "conversations": "rows-conversations", "preferences": "rows-preferences"}
_VOTE = {"message", "left_answer", "right_answer", "vote"}


def read_rows(
    datasets: Sequence[Dataset],
    kind: Kind,
    folder: Path,
    token: Token = None,
    *,
    allow_folders: bool = True,
) -> list[Row]:
    """The rows of all data sets, in order: each has the columns of one of TRL's forms, and no other.

    A row is a text, a conversation (`messages`), a prompt with its completion, or a prompt with a chosen and a rejected
    answer. Votes of the Chat tab become the latter; ties are left out.

    Args:
        datasets: where they are.
        kind: of training; tells what rows it can use.
        folder: that names of files are relative to.
        token: whose access to the Hub to use.
        allow_folders: whether they may be files of this machine.

    Raises:
        EvaluationError: one cannot be read, is a benchmark, or has rows of another form.
    """
    found = [row for dataset in datasets for row in _read(dataset, kind, folder, token, allow_folders)]
    forms = sorted({tuple(row) for row in found})
    if kind.by_trl and len(forms) > 1:
        values = {"one": list(forms[0]), "other": list(forms[1])}
        raise EvaluationError(Problem("rows-of-two-forms", values))
    return found


def _read(dataset: Dataset, kind: Kind, folder: Path, token: Token, allow_folders: bool) -> Iterator[Row]:
    path = dataset.path
    if path in BUNDLED:
        raise EvaluationError(Problem("trained-on-judged", {"texts": [path]}, dataset.where))
    if path == PYTHON_TOPICS:
        from pydoc_data.topics import topics

        rows: Iterable[Any] = topics.values()
    elif allow_folders and path.endswith(_FILES):
        content = read_text(folder / path, (PYTHON_TOPICS,))
        rows = _lines(path, content, dataset.where) if path.endswith(".jsonl") else [content]
    elif allow_folders and (folder / path).is_file():
        raise EvaluationError(Problem("training-file-kind", {"name": path, "known": _FILES}, dataset.where))
    elif _BENCHMARK.search(path):
        raise EvaluationError(Problem("trained-on-benchmark", {"name": path}, dataset.where))
    else:
        rows = dataset_rows(
            path, rows=dataset.rows, split=dataset.split, subset=dataset.name, token=token,
            allow_folders=allow_folders,
        )  # fmt: skip
    for number, row in enumerate(rows, 1):
        if isinstance(row, Mapping) and row.keys() >= _VOTE and row["vote"] == "tie":
            continue
        formed = _formed(row, dataset.column, kind)
        if formed is None:
            values = {"name": path, "line": number, "wanted": {"phrase": _WANTED[kind.rows]}}
            raise EvaluationError(Problem("not-a-row", values, dataset.where))
        if problem := _fault(formed, kind, path, number, dataset.where):
            raise EvaluationError(problem)
        yield formed


def _lines(name: str, content: str, where: Place | str) -> Iterator[Any]:
    """What each line of JSON holds."""
    for number, line in enumerate(content.split("\n"), 1):  # no other end of a line is one in JSON
        if line.strip():
            try:
                yield parse_json(line.encode(), keys_once=True)
            except RepeatedKeyError as error:
                values = {"name": name, "line": number, "key": error.key}
                raise EvaluationError(Problem("row-repeated-key", values, where)) from None
            except ValueError:
                values = {"name": name, "line": number}
                raise EvaluationError(Problem("not-a-document", values, where)) from None


def _formed(row: Any, column: str, kind: Kind) -> Row | None:
    """A row with the columns of one form alone; None if it has none that the kind of training can use."""
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, Mapping):
        return None
    if row.keys() >= _VOTE:
        row = preference(row)
    if column != "text" and column in row:
        row = {"text": row[column]}
    form = next((form for form in _FORMS if row.keys() >= set(form)), None)
    if form is None or ("rejected" in form) != (kind.rows == "preferences"):
        return None
    if form == ("text",) and kind.rows == "conversations":
        return None
    found = {name: row[name] for name in form}
    is_alike = len({type(value) for value in found.values()}) == 1  # all texts, or all conversations
    return found if is_alike and all(_said(value) for value in found.values()) else None


def _said(value: Any) -> bool:
    """Whether a column holds text: a string, or messages of `role` and `content`."""
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(one, Mapping)
            and isinstance(one.get("role"), str)
            and isinstance(one.get("content"), str)
            for one in value
        )
    return isinstance(value, str) and bool(value.strip())


def _fault(row: Row, kind: Kind, name: str, line: int, where: Place | str) -> Problem | None:
    """What is wrong with what a row of a data set says."""
    texts = texts_of(row.values())
    if (size := sum(map(len, texts))) > _LARGEST_ROW:
        values = {"name": name, "line": line, "size": size / 1e6, "most": _LARGEST_ROW / 1e6}
        return Problem("row-too-large", values, where)
    if any("\0" in text for text in texts):
        return Problem("row-null-character", {"name": name, "line": line}, where)
    if row.get("chosen", 0) == row.get("rejected", 1):
        return Problem("row-answers-alike", {"name": name, "line": line}, where)
    before = row.get("prompt")
    for column, value in row.items():
        if isinstance(value, list):
            turns = value if column == "prompt" or not isinstance(before, list) else [*before, *value]
            roles = [one["role"] for one in turns]
            if unknown := [role for role in roles if role not in _ROLES]:
                values = {"name": name, "line": line, "role": unknown[0], "known": list(_ROLES)}
                return Problem("row-role", values, where)
            alike = [one for one, other in pairwise(roles) if one == other and one in ("user", "assistant")]
            if alike:
                return Problem("row-turns-repeat", {"name": name, "line": line, "role": alike[0]}, where)
            must_answer = column in _ANSWERS or (column == "messages" and kind.rows == "conversations")
            if must_answer and roles[-1] != "assistant":
                return Problem("row-without-answer", {"name": name, "line": line}, where)
    return None


def texts_of(columns: Iterable[Any]) -> list[str]:
    """The texts of columns: strings, and the contents of messages."""
    found: list[str] = []
    for value in columns:
        found += [one["content"] for one in value] if isinstance(value, list) else [value]
    return found


def is_conversation(row: Row) -> bool:
    """Whether a row has messages, and not only texts."""
    return any(isinstance(value, list) for value in row.values())


def preference(vote: Mapping[str, Any]) -> Row:
    """A vote of the Chat tab, which is no tie, in the columns that DPO is trained on."""
    better, worse = ("left", "right") if vote["vote"] == "left" else ("right", "left")
    return {
        "prompt": [{"role": "user", "content": vote["message"]}],
        "chosen": [{"role": "assistant", "content": vote[f"{better}_answer"]}],
        "rejected": [{"role": "assistant", "content": vote[f"{worse}_answer"]}],
    }


def document_of(row: Row) -> str:
    """What a row says, as one text; of two answers the chosen one."""
    return "\n\n".join(texts_of(value for name, value in row.items() if name != "rejected"))


def held_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows to train on, and every tenth, which is not."""
    return [row for number, row in enumerate(rows) if number % _KEPT != _KEPT - 1], list(
        rows[_KEPT - 1 :: _KEPT]
    )


def judged_documents(names: Sequence[str], folder: Path, *, allow_folders: bool = True) -> list[str]:
    """The documents to judge on: bundled texts, and files of which each is one document.

    Args:
        names: of them.
        folder: that names of files are relative to.
        allow_folders: whether they may be files of this machine.

    Raises:
        EvaluationError: one cannot be read, or may not be.
    """
    if not allow_folders and (own := [name for name in names if name not in BUNDLED]):
        raise EvaluationError(Problem("no-bundled-text", {"name": own[0], "known": BUNDLED}))
    return [
        text
        for name in names
        for text in (bundled_text(name) if name in BUNDLED else [read_text(folder / name)])
    ]


def not_seen(rows: Sequence[Row], trained: Sequence[Row]) -> list[Row]:
    """The rows that are not among those to train on, whole or in large part."""
    texts = [document_of(row) for row in rows]
    seen = _seen(texts, [document_of(row) for row in trained])
    return [row for row, was_seen in zip(rows, seen, strict=True) if not was_seen]


def check_apart(trained: Sequence[str], judged: Sequence[str]) -> None:
    """Check that no judged document is among those to train on, whole or in large part.

    Raises:
        EvaluationError: one is; names its beginning.
    """
    found = [
        " ".join(text.split())[:60]
        for text, was_seen in zip(judged, _seen(judged, trained), strict=True)
        if was_seen
    ]
    if found:
        raise EvaluationError(Problem("trained-on-judged", {"texts": found[:3]}))


def _seen(texts: Sequence[str], trained: Sequence[str]) -> list[bool]:
    """Of each text whether it is among those to train on."""
    runs = [_runs(text) for text in texts]
    wanted = set().union(*runs)
    there = {run for text in trained for run in _runs(text) if run in wanted}
    return [bool(own) and len(own & there) >= _SEEN * len(own) for own in runs]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[at : at + _RUN]) for at in range(max(len(words) - _RUN + 1, 1))} if words else set()


def windows(model: LanguageModel, texts: Sequence[str], length: int) -> Tensor:
    """(n, length) int64: the tokens of all texts one after the other, with an end token between, cut into sequences.

    Raises:
        EvaluationError: there are too few for one sequence.
    """
    end = model.tokenizer.eos_token_id
    stream = [
        token
        for text in texts
        for token in [*model.tokens(text, begins=True), *([] if end is None else [end])]
    ]
    count = len(stream) // length
    if not count:
        size = sum(len(text.encode()) for text in texts)
        values = {"tokens": len(stream), "bytes": size, "length": length}
        raise EvaluationError(Problem("training-text-short", values))
    return torch.tensor(stream[: count * length]).reshape(count, length)


def places(count: int, step: int, size: int, seed: int) -> list[int]:
    """Numbers of the sequences or rows of a step. Each pass over all of them has an order of its own.

    Args:
        count: of all.
        step: from 0 on.
        size: sequences a step.
        seed: of the order.
    """
    wanted = range(step * size, (step + 1) * size)
    orders = {
        place // count: np.random.default_rng([seed, place // count]).permutation(count) for place in wanted
    }
    return [int(orders[place // count][place % count]) for place in wanted]


def digest(texts: Sequence[str]) -> str:
    """Identifies texts."""
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode()).digest())
    return found.hexdigest()

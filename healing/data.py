"""Texts to train on, and the guard that none of them is judged on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints import Token
from checkpoints.problems import Problem
from evaluation import EvaluationError, LanguageModel
from evaluation.text import BUNDLED, bundled_text, dataset_texts, read_text
from healing.settings import Dataset

# The manual that comes with every Python: 79 topics, in English, under the PSF licence.
PYTHON_TOPICS = "python-topics"
# Data sets that models are judged by.
_BENCHMARK = re.compile(
    r"k?mmlu|haerae|hellaswag|winogrande|\barc\b|ai2_arc|gsm8k|humaneval|truthfulqa|ifeval|kobest|piqa|boolq|\bbbh\b",
    re.IGNORECASE,
)
# Runs of this many words are compared, and a judged document that shares this much of them was trained on.
_RUN = 8
_SEEN = 0.3


def read_documents(
    datasets: Sequence[Dataset], folder: Path, token: Token = None, *, allow_folders: bool = True
) -> list[str]:
    """The documents of all data sets, in order.

    Args:
        datasets: where they are.
        folder: that names of files are relative to.
        token: whose access to the Hub to use.
        allow_folders: whether they may be files of this machine.

    Raises:
        EvaluationError: one cannot be read, or is a benchmark.
    """
    return [text for dataset in datasets for text in _read(dataset, folder, token, allow_folders)]


def _read(dataset: Dataset, folder: Path, token: Token, allow_folders: bool) -> Sequence[str]:
    path = dataset.path
    if path == PYTHON_TOPICS:
        from pydoc_data.topics import topics

        return list(topics.values())
    if path in BUNDLED:
        raise EvaluationError(Problem("trained-on-judged", {"texts": [path]}, dataset.where))
    if allow_folders and path.endswith((".txt", ".md", ".jsonl")):
        content = read_text(folder / path)
        return list(_lines(path, content)) if path.endswith(".jsonl") else [content]
    if _BENCHMARK.search(path):
        raise EvaluationError(Problem("trained-on-benchmark", {"name": path}, dataset.where))
    return list(
        dataset_texts(
            path, column=dataset.column, rows=dataset.rows, split=dataset.split, subset=dataset.name,
            token=token, allow_folders=allow_folders,
        )
    )  # fmt: skip


def _lines(name: str, content: str) -> Iterator[str]:
    """A document from each line of JSON: its `text`, or the contents of its `messages`, one after the other."""
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            text = _text_of(line)
            if not text:
                raise EvaluationError(Problem("not-a-document", {"name": name, "line": number}))
            yield text


def _text_of(line: str) -> str | None:
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    if isinstance(found, dict) and isinstance(messages := found.get("messages"), list):
        contents = [one.get("content") if isinstance(one, dict) else None for one in messages]
        texts = [one for one in contents if isinstance(one, str)]
        return "\n\n".join(texts) if texts and len(texts) == len(contents) else None
    text = found.get("text") if isinstance(found, dict) else found
    return text if isinstance(text, str) and text.strip() else None


def judged_documents(names: Sequence[str], folder: Path) -> list[str]:
    """The documents to judge on: bundled texts, and files of which each is one document.

    Raises:
        EvaluationError: one cannot be read.
    """
    return [
        text
        for name in names
        for text in (bundled_text(name) if name in BUNDLED else [read_text(folder / name)])
    ]


def check_apart(trained: Sequence[str], judged: Sequence[str]) -> None:
    """Check that no judged document is among those to train on, whole or in large part.

    Raises:
        EvaluationError: one is; names its beginning.
    """
    runs = [_runs(text) for text in judged]
    wanted = set().union(*runs)
    seen = {run for text in trained for run in _runs(text) if run in wanted}
    found = [
        " ".join(text.split())[:60]
        for text, own in zip(judged, runs, strict=True)
        if own and len(own & seen) >= _SEEN * len(own)
    ]
    if found:
        raise EvaluationError(Problem("trained-on-judged", {"texts": found[:3]}))


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


def batch(windows: Tensor, step: int, size: int, seed: int) -> Tensor:
    """(size, length) int64: the sequences of a step. Each pass over the text has an order of its own.

    Args:
        windows: (n, length).
        step: from 0 on.
        size: sequences a step.
        seed: of the order.
    """
    count = len(windows)
    places = range(step * size, (step + 1) * size)
    orders = {
        place // count: np.random.default_rng([seed, place // count]).permutation(count) for place in places
    }
    return windows[[int(orders[place // count][place % count]) for place in places]]


def digest(texts: Sequence[str]) -> str:
    """Identifies texts."""
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode()).digest())
    return found.hexdigest()

"""Texts to judge models by: bundled texts, files, and columns of data sets on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from checkpoints import Token
from checkpoints.confined import HUB_VARIABLES, Confined, ConfinedError, LimitError
from checkpoints.problems import Problem
from checkpoints.repositories.repository import current_token
from evaluation.error import EvaluationError

_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FOLDER = Path(__file__).parent / "texts"
# Seconds of processor time, seconds of waiting (for the Hub too), and bytes of memory, to read a stranger's data set.
SECONDS, WAIT, MEMORY = 60, 120, 4 << 30


@dataclass(frozen=True)
class TextSource:
    """Where a text comes from, so that a measurement can be repeated.

    Attributes:
        name: what to call it, such as "Alloy's English text" or a file's name.
        dataset: "owner/name" of a data set on the Hub; "" for any other text.
        subset: its configuration; None if it has only one.
        split: such as "test".
        column: the column that holds the text.
    """

    name: str
    dataset: str = ""
    subset: str | None = None
    split: str | None = None
    column: str | None = None


# Written for Alloy and under its licence, so no model has seen them in training.
BUNDLED = tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def bundled_text(name: str) -> list[str]:
    """The documents of a bundled text, one per paragraph.

    Args:
        name: one of BUNDLED

    Raises:
        EvaluationError: there is no such text
    """
    if name not in BUNDLED:
        raise EvaluationError(Problem("no-bundled-text", {"name": name, "known": BUNDLED}))
    return (_FOLDER / f"{name}.txt").read_text("utf-8").strip().split("\n\n")


def read_text(path: str | Path, bundled: Sequence[str] = BUNDLED) -> str:
    """A file, as one document.

    Args:
        path: of the file
        bundled: names of texts that may be given instead

    Raises:
        EvaluationError: it does not exist, is empty, or is not UTF-8
    """
    try:
        return decoded(str(path), Path(path).read_bytes())
    except OSError as error:
        values = {"path": str(path), "error": error.strerror, "known": bundled}
        raise EvaluationError(Problem("text-unreadable", values)) from error


def decoded(name: str, content: bytes) -> str:
    """Decode UTF-8, without a byte order mark.

    Args:
        name: what to call the bytes in an error
        content: UTF-8

    Raises:
        EvaluationError: they are not UTF-8, or hold no text
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvaluationError(Problem("not-utf8", {"name": name, "byte": error.start})) from error
    if not text.strip():
        raise EvaluationError(Problem("empty-file", {"name": name}))
    return text


def dataset_texts(
    name: str,
    *,
    column: str = "text",
    rows: int = 100,
    split: str = "test",
    subset: str | None = None,
    token: Token = None,
    allow_folders: bool = True,
) -> Iterator[str]:
    """Stream the first rows of a data set, one document per row; nothing is stored.

    Rows without text are skipped. On a server for strangers the rows are read in a process of their own: the author of
    a data set decides what a row costs.

    Args:
        name: "owner/name" on the Hub, or a folder
        column: the column that holds the text
        rows: maximum number of documents
        split: such as "test"
        subset: its configuration; None if it has only one
        token: a token or a function that returns one; None for this machine's login, False for none
        allow_folders: whether `name` may be a folder of this machine; False on a server for strangers

    Raises:
        EvaluationError: raised while iterating; there is no such data set, split or column, access is denied, or a
            server's limits are exceeded
    """
    if rows < 1:
        raise EvaluationError(Problem("rows-range", {"rows": rows}))
    asked = (name, column, rows, split, subset, current_token(token))
    if allow_folders:
        yield from _documents(*asked)
        return
    _check_on_hub(name)
    try:
        found = _read_apart(asked)
    except LimitError:
        values = {"name": name, "seconds": SECONDS, "memory": MEMORY / 1e9}
        raise EvaluationError(Problem("dataset-limit", values)) from None
    except ConfinedError as error:
        raise _unreadable(name, error) from error
    if problems := found["problems"]:
        raise EvaluationError(map(Problem.from_data, problems))
    yield from found["texts"]


def ready() -> None:
    """Import what the first data set takes most of its time for."""
    import datasets  # noqa: F401


def read(asked: Sequence[Any]) -> dict[str, Any]:
    """The documents of a data set, or the problems, for the process that reads those of strangers."""
    try:
        return {"texts": list(_documents(*asked)), "problems": []}
    except EvaluationError as error:
        return {"problems": [asdict(problem) for problem in error.problems]}


_read_apart = Confined(
    __name__, read.__name__, ready=ready.__name__, seconds=SECONDS, wait=WAIT, memory=MEMORY,
    variables=(*HUB_VARIABLES, "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE"),
)  # fmt: skip


def _check_on_hub(name: str) -> None:
    if not _ON_HUB.fullmatch(name):
        raise EvaluationError(Problem("dataset-not-on-hub", {"name": name}))


def _documents(
    name: str, column: str, rows: int, split: str, subset: str | None, token: str | bool | None
) -> Iterator[str]:
    """The first documents of a data set; see `dataset_texts`."""
    documents = 0
    for row in dataset_rows(name, rows=None, split=split, subset=subset, token=token):
        if column not in row:
            values = {"name": name, "column": column, "known": list(map(str, row))}
            raise EvaluationError(Problem("no-column", values))
        if not isinstance(row[column], str):
            values = {"name": name, "column": column, "kind": type(row[column]).__name__}
            raise EvaluationError(Problem("column-not-text", values))
        if row[column].strip():
            yield row[column]
            documents += 1
        if documents == rows:
            return
    if not documents:
        raise EvaluationError(Problem("empty-column", {"name": name, "column": column, "split": split}))


def dataset_rows(
    name: str,
    *,
    rows: int | None,
    split: str = "train",
    subset: str | None = None,
    token: Token = None,
    allow_folders: bool = True,
) -> Iterator[Mapping[Any, Any]]:
    """Stream the first rows of a data set, with all their columns; nothing is stored.

    Args:
        name, split, subset, token, allow_folders: see `dataset_texts`
        rows: maximum number of rows; None: all

    Raises:
        EvaluationError: raised while iterating; there is no such data set or split, or access is denied
    """
    if not allow_folders:
        _check_on_hub(name)
    found = islice(_rows(name, split, subset, current_token(token)), rows)
    while True:
        try:
            row = next(found, None)
        except Exception as error:
            # Whatever fails while a data set is read is the data set's fault.
            raise _unreadable(name, error) from error
        if row is None:
            return
        yield row


def _rows(name: str, split: str, subset: str | None, token: Any) -> Iterator[dict[Any, Any]]:
    try:
        import datasets
    except ImportError:
        raise EvaluationError(Problem("no-datasets-package")) from None
    try:
        found = datasets.load_dataset(name, subset, split=split, streaming=True, token=token)
        return iter(found)
    except StopIteration:  # raised by datasets if the files have no first row
        return iter(())
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> EvaluationError:
    words = " ".join(str(error).split())[:300]
    code = "dataset-gated" if "gated" in words.lower() else "dataset-unreadable"
    return EvaluationError(Problem(code, {"name": name, "words": words}))

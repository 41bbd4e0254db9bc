"""Texts to judge models by: bundled ones, files, and columns of data sets on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.checkpoint import Token
from evaluation.error import EvaluationError

_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FOLDER = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Source:
    """Where a text is from, for whoever wants to measure the same again.

    Attributes:
        name: for a person, such as "Alloy's English text" or a file's name.
        dataset: "owner/name" of a data set on the Hub; "" for any other text.
        subset: its configuration, None where it has one only.
        split: the part of it.
        column: that holds the text.
    """

    name: str
    dataset: str = ""
    subset: str | None = None
    split: str | None = None
    column: str | None = None


# Written for Alloy and under its licence, so that no model had them in its training data.
BUNDLED = tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def bundled_text(name: str) -> list[str]:
    """The documents of a bundled text, a paragraph each.

    Args:
        name: one of BUNDLED

    Raises:
        EvaluationError: there is no such text
    """
    if name not in BUNDLED:
        raise EvaluationError(f"There is no bundled text {name!r}. Expected one of {', '.join(BUNDLED)}.")
    return (_FOLDER / f"{name}.txt").read_text("utf-8").strip().split("\n\n")


def read_text(path: str | Path) -> str:
    """A file, as one document.

    Raises:
        EvaluationError: it is not there, is empty, or is not UTF-8
    """
    try:
        return decoded(str(path), Path(path).read_bytes())
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror}). Give a text file, or one of {', '.join(BUNDLED)}."
        ) from error


def decoded(name: str, content: bytes) -> str:
    """The text that some bytes are, without a mark of their order.

    Args:
        name: what to call them in an error
        content: UTF-8

    Raises:
        EvaluationError: they are not UTF-8, or no text
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"{name} is not UTF-8: byte {error.start} does not belong there. Save it as UTF-8"
            " (`iconv -f cp949 -t utf-8` for old Korean files), and see that it is a text."
        ) from error
    if not text.strip():
        raise EvaluationError(f"{name} is empty. Give a text of at least a few hundred words.")
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
    """The first rows of a data set, a document each, read as they come and never stored.

    Rows without text are passed over.

    Args:
        name: "owner/name" on the Hub, or a folder
        column: the column that holds the text
        rows: how many documents at most
        split: the part of the data set
        subset: its configuration, where it has several
        token: a token or what gives one; None for the machine's own login, False for none at all
        allow_folders: whether `name` may be a folder of this machine

    Raises:
        EvaluationError: while iterating; there is no such data set, part or column, or it may not be read
    """
    if rows < 1:
        raise EvaluationError(f"rows={rows}: expected at least 1.")
    if not allow_folders and not _ON_HUB.fullmatch(name):
        raise EvaluationError(f"{name}: only data sets on the Hub can be read here. Give one as owner/name.")
    rows_found = _rows(name, split, subset, token() if callable(token) else token)
    documents = 0
    try:
        for row in rows_found:
            if column not in row:
                known = ", ".join(str(key) for key in row)
                raise EvaluationError(f"{name} has no column {column!r}. Expected one of: {known}.")
            if not isinstance(row[column], str):
                raise EvaluationError(
                    f"{name}: the column {column!r} holds {type(row[column]).__name__}, not text. Choose"
                    " another."
                )
            if row[column].strip():
                yield row[column]
                documents += 1
            if documents == rows:
                return
    except EvaluationError:
        raise
    except Exception as error:
        # Whatever a stranger's data makes the readers of its many forms say is about that data.
        raise _unreadable(name, error) from error
    if not documents:
        raise EvaluationError(f"{name} has no text in the column {column!r} of {split!r}. Choose another.")


def _rows(name: str, split: str, subset: str | None, token: Any) -> Iterator[dict[Any, Any]]:
    try:
        import datasets
    except ImportError:
        raise EvaluationError(
            "Data sets are read by the package datasets, which is not installed. Run `pip install datasets`."
        ) from None
    try:
        found = datasets.load_dataset(name, subset, split=split, streaming=True, token=token)
        return iter(found)
    except StopIteration:  # how datasets says that the files have no first row
        return iter(())
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> EvaluationError:
    words = " ".join(str(error).split())[:300]
    gated = "gated" in words.lower()
    fix = (
        " It is gated: accept its terms on its page and come back signed in."
        if gated
        else " Check its name, the part (split) and the configuration; private and gated ones need a sign-in."
    )
    return EvaluationError(f"The data set {name} cannot be read.{fix} datasets says: {words}")

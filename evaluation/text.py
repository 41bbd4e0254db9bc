"""Texts to judge models by: bundled texts, files, and columns of data sets on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import Token
from checkpoints.repositories.repository import current_token
from evaluation.error import EvaluationError

_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FOLDER = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Source:
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
        raise EvaluationError(f"There is no bundled text {name!r}. Expected one of {', '.join(BUNDLED)}.")
    return (_FOLDER / f"{name}.txt").read_text("utf-8").strip().split("\n\n")


def read_text(path: str | Path) -> str:
    """A file, as one document.

    Raises:
        EvaluationError: it does not exist, is empty, or is not UTF-8
    """
    try:
        return decoded(str(path), Path(path).read_bytes())
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror}). Give a text file, or one of {', '.join(BUNDLED)}."
        ) from error


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
        raise EvaluationError(
            f"{name} is not UTF-8: byte {error.start} is not valid. Save it as UTF-8"
            " (`iconv -f cp949 -t utf-8` for old Korean files), and check that it is a text file."
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
    """Stream the first rows of a data set, one document per row; nothing is stored.

    Rows without text are skipped.

    Args:
        name: "owner/name" on the Hub, or a folder
        column: the column that holds the text
        rows: maximum number of documents
        split: such as "test"
        subset: its configuration; None if it has only one
        token: a token or a function that returns one; None for this machine's login, False for none
        allow_folders: whether `name` may be a folder of this machine

    Raises:
        EvaluationError: raised while iterating; there is no such data set, split or column, or access is denied
    """
    if rows < 1:
        raise EvaluationError(f"rows={rows}: expected at least 1.")
    if not allow_folders and not _ON_HUB.fullmatch(name):
        raise EvaluationError(f"{name}: only data sets on the Hub can be read here. Give one as owner/name.")
    rows_found = _rows(name, split, subset, current_token(token))
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
        # Any error while reading somebody else's data is about that data.
        raise _unreadable(name, error) from error
    if not documents:
        raise EvaluationError(f"{name} has no text in the column {column!r} of {split!r}. Choose another.")


def _rows(name: str, split: str, subset: str | None, token: Any) -> Iterator[dict[Any, Any]]:
    try:
        import datasets
    except ImportError:
        raise EvaluationError(
            "Reading data sets needs the package datasets, which is not installed. Run `pip install datasets`."
        ) from None
    try:
        found = datasets.load_dataset(name, subset, split=split, streaming=True, token=token)
        return iter(found)
    except StopIteration:  # raised by datasets if the files have no first row
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

"""The metadata of a GGUF file: what its header says of the model, without the vocabulary and the tensors."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from checkpoints.problems import Problem
from evaluation.error import EvaluationError

# How `struct` calls the plain kinds of values, by their numbers in the format.
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
# Far more than any model has.
_MOST_KEYS, _LONGEST_TEXT = 10_000, 2_000_000

Value = str | int | float | bool


def gguf_metadata(path: Path) -> Mapping[str, Value]:
    """The texts and numbers in the header of a GGUF file, by key; lists are left out.

    Raises:
        EvaluationError: it is no such file, or is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            magic, version, _, keys = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3) or keys > _MOST_KEYS:
                raise ValueError
            pairs = [(_text(file), _value(file)) for _ in range(keys)]
        except (struct.error, ValueError, RecursionError, OverflowError) as error:
            raise EvaluationError(Problem("no-gguf", {"file": str(path)})) from error
    return {key: value for key, value in pairs if value is not None}


def _value(file: BinaryIO) -> Value | None:
    (kind,) = struct.unpack("<I", file.read(4))
    if kind != _ARRAY:
        return _text(file) if kind == _TEXT else _number(file, kind)
    kind, count = struct.unpack("<IQ", file.read(12))
    if kind == _TEXT:
        for _ in range(count):
            _skip(file, struct.unpack("<Q", file.read(8))[0])
    elif kind in _PLAIN:
        _skip(file, count * struct.calcsize(_PLAIN[kind]))
    else:
        raise ValueError(f"a list of kind {kind}")
    return None


def _number(file: BinaryIO, kind: int) -> Value:
    if kind not in _PLAIN:
        raise ValueError(f"a value of kind {kind}")
    code = "<" + _PLAIN[kind]
    (value,) = struct.unpack(code, file.read(struct.calcsize(code)))
    number: Value = value
    return number


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _LONGEST_TEXT:
        raise ValueError(f"a text of {length} bytes")
    content = file.read(length)
    if len(content) < length:
        raise ValueError("the file ends")
    return content.decode("utf-8", "replace")


def _skip(file: BinaryIO, size: int) -> None:
    if size > 1 << 40:
        raise ValueError(f"a list of {size} bytes")
    file.seek(size, 1)

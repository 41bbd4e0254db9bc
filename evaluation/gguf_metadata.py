"""The metadata of a GGUF file: what its header says of the model, without the vocabulary and the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from checkpoints.gguf.header import read_metadata
from checkpoints.problems import CheckpointError, Problem
from evaluation.error import EvaluationError

Value = str | int | float | bool


def gguf_metadata(path: Path) -> Mapping[str, Value]:
    """The texts and numbers in the header of a GGUF file, by key; lists are left out.

    Raises:
        EvaluationError: it is no such file, or is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:

        def read(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        try:
            found = read_metadata(str(path), path.stat().st_size, read)
        except CheckpointError as error:
            raise EvaluationError(Problem("no-gguf", {"file": str(path)})) from error
    return {key: value for key, value in found.items() if not isinstance(value, list)}

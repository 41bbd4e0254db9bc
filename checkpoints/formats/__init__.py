"""How weights are written: one file a format. To add a format, add it to `FORMATS`."""

from __future__ import annotations

from checkpoints.formats.format import Format
from checkpoints.formats.header import TensorHeader
from checkpoints.formats.safetensors import SAFETENSORS
from checkpoints.formats.torch_zip import TORCH_ZIP
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.repository import Repository, read_bytes

# A model in several formats is read in the first of them.
FORMATS = (SAFETENSORS, TORCH_ZIP)


def format_of(file: str) -> Format | None:
    """The format of a file, by its name."""
    return next((form for form in FORMATS if form.includes(file)), None)


def read_tensors(repository: Repository, file: str) -> dict[str, TensorHeader]:
    """The tensors of a file, by name, from its header alone.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors, or is of no format that can be read.
    """
    form = format_of(file)
    if form is None:
        known = [suffix for form in FORMATS for suffix in form.suffixes]
        raise CheckpointError(Problem("unknown-format", {"file": file, "known": known}, repository.name))
    return form.read(
        file, repository.files[file], lambda start, nbytes: bytes(read_bytes(repository, file, start, nbytes))
    )

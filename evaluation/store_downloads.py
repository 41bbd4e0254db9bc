"""Models from object stores and buckets on this machine's disk: a folder for each version, in the Hugging Face home."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import constants

from checkpoints.problems import Problem
from checkpoints.repositories.repository import Repository
from evaluation.error import EvaluationError

# Bytes that are read at a time.
PIECE = 64 * 1024 * 1024


def fetch_from_store(repository: Repository, files: Sequence[str]) -> Path:
    """Download files of a model unless they are here; returns their folder, which appears whole.

    Raises:
        EvaluationError: there is not enough room.
        CheckpointError: they cannot be read.
    """
    home = Path(constants.HF_HOME) / "alloy-stores"
    folder = home / repository.version
    if folder.is_dir():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    size, room = sum(repository.files[file] for file in files), shutil.disk_usage(home).free
    if size > room:
        values = {"repo": repository.name, "size": size / 1e9, "room": room / 1e9, "cache": str(home)}
        raise EvaluationError(Problem("no-room-for-download", values))
    with TemporaryDirectory(dir=home) as partial:
        whole = Path(partial) / "model"
        for file in files:
            _download(repository, file, whole / file)
        if not folder.is_dir():
            whole.rename(folder)
    return folder


def _download(repository: Repository, file: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("wb") as out:
        for start in range(0, repository.files[file], PIECE):
            piece = bytearray(min(PIECE, repository.files[file] - start))
            repository.read_into(file, start, memoryview(piece))
            out.write(piece)

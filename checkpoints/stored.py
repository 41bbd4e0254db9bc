"""A model as it is stored: weights, config and small files in one repository."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from checkpoints.checkpoint import not_json
from checkpoints.counts import check_counts
from checkpoints.formats import FORMATS, format_of, read_tensors
from checkpoints.formats.format import Format
from checkpoints.formats.header import MAX_TENSORS, TensorHeader
from checkpoints.formats.safetensors import MAX_HEADER
from checkpoints.formats.torch_zip import TORCH_ZIP
from checkpoints.gguf.model import read_gguf_model
from checkpoints.gguf_files import models as gguf_models
from checkpoints.json_value import parse_json
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.repository import MAX_CONFIG, Repository, read_small
from checkpoints.ties import without_ties
from checkpoints.tokenizer_files import has_vocabulary

# How the files of a model in several are numbered.
_PART = re.compile(r"(\d{5})-of-(\d{5})")


class StoredCheckpoint:
    """The checkpoint in a repository.

    Args:
        repository: its files; closed with it
        config: the content of config.json
        tensors: the headers of its weights
        warnings: see `Checkpoint.warnings`
    """

    adapters = ()

    def __init__(
        self,
        repository: Repository,
        config: dict[str, Any],
        tensors: Mapping[str, TensorHeader],
        warnings: tuple[Problem, ...] = (),
    ):
        self.repository = repository
        self.config = config
        self.tensors = tensors
        self.warnings = warnings
        self.name = repository.name
        self.version = repository.version
        self.is_folder = repository.is_folder
        self.is_remote = not all(map(repository.is_local, {header.file for header in tensors.values()}))
        self.is_cached = not (self.is_folder or self.is_remote)
        self.files = repository.files

    @property
    def read_by(self) -> Set[str]:
        return self.repository.read_by

    def read_file(self, file: str) -> bytes:
        return read_small(self.repository, file)

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        self.repository.read_into(file, start, buffer)

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        header = self.tensors[tensor]
        self.repository.read_into(header.file, header.start + start, buffer)

    def bytes_to_read(self, tensor: str) -> int:
        return self.tensors[tensor].nbytes

    def interrupt(self) -> None:
        self.repository.interrupt()

    def close(self) -> None:
        self.repository.close()


def read_headers(
    repository: Repository, is_bare: bool = False, is_tokenizer: bool = False
) -> StoredCheckpoint:
    """Read the config and the headers of the weights.

    Args:
        is_bare: whether it may be weights without a config
        is_tokenizer: whether it may be a tokenizer alone

    Raises:
        CheckpointError: there are no weights that can be read or no config, or a file is damaged.
    """
    if is_gguf(repository):
        model = read_gguf_model(repository)
        config = _config(model.repository, is_bare=False)
        check_counts(repository.name, config, len(model.tensors))
        return StoredCheckpoint(model.repository, config, model.tensors, model.warnings)
    if is_tokenizer and has_vocabulary(repository.files) and not any(map(format_of, repository.files)):
        return StoredCheckpoint(repository, _config(repository, is_bare=True), {})
    config = _config(repository, is_bare)
    files = _weight_files(repository, is_bare)
    tensors: dict[str, TensorHeader] = {}
    nbytes = 0
    with ThreadPoolExecutor(min(8, len(files))) as pool:
        try:
            for headers in pool.map(lambda file: read_tensors(repository, file), files):
                tensors |= headers
                nbytes += min((header.start for header in headers.values()), default=0)
                _check_limits(repository, len(tensors), nbytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    check_counts(repository.name, config, len(tensors))
    return StoredCheckpoint(repository, config, without_ties(tensors, config))


def is_gguf(repository: Repository) -> bool:
    """Whether a model is in GGUF files, and in no others that can be read."""
    return bool(gguf_models(repository.files)) and not any(_files_of(repository, form) for form in FORMATS)


def _check_limits(repository: Repository, tensors: int, nbytes: int) -> None:
    name = repository.name
    if tensors > MAX_TENSORS:
        raise CheckpointError(Problem("too-many-tensors", {"model": name, "most": MAX_TENSORS}, name))
    if nbytes > MAX_HEADER:
        raise CheckpointError(Problem("large-headers", {"model": name, "most": MAX_HEADER}, name))


def _read_json(repository: Repository, file: str) -> Any:
    try:
        return parse_json(read_small(repository, file, MAX_CONFIG))
    except ValueError as error:
        raise not_json(repository.name, file, error) from None


def _config(repository: Repository, is_bare: bool) -> dict[str, Any]:
    name = repository.name
    if "config.json" not in repository.files:
        if is_bare:
            return {}
        if "adapter_config.json" in repository.files:
            raise CheckpointError(_lone_adapter(repository))
        raise CheckpointError(Problem("no-config", {"model": name}, name))
    config = _read_json(repository, "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(Problem("damaged-config", {"model": name}, name))
    return config


def _lone_adapter(repository: Repository) -> Problem:
    settings = _read_json(repository, "adapter_config.json")
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    return Problem("adapter", {"adapter": repository.name, "base": base}, repository.name)


def _weight_files(repository: Repository, is_bare: bool) -> list[str]:
    name, files = repository.name, repository.files
    for form in FORMATS:
        if found := _files_of(repository, form):
            return found
    if is_bare and len(files) == 1 and all(map(format_of, files)):
        return list(files)
    if any(map(TORCH_ZIP.includes, files)):
        raise CheckpointError(Problem("pickle-only", {"model": name, "file": TORCH_ZIP.model}, name))
    raise CheckpointError(Problem("no-weights", {"model": name}, name))


def _missing_part(files: Sequence[str]) -> str | None:
    """Of files that are numbered `-00001-of-00003`, the first that is missing."""
    for file in sorted(files):
        if match := _PART.search(file):
            for number in range(1, int(match[2]) + 1):
                part = f"{file[: match.start(1)]}{number:05d}{file[match.end(1) :]}"
                if part not in files:
                    return part
    return None


def _files_of(repository: Repository, form: Format) -> list[str]:
    """The model's files of a format: one, those of an index, or all of them if their names do not count."""
    if form.model in repository.files:
        return [form.model]
    index = form.index
    if index not in repository.files:
        loose = [file for file in repository.files if form.includes(file) and "/" not in file]
        if part := _missing_part(loose):
            values = {"index": index, "model": repository.name, "file": part}
            raise CheckpointError(Problem("missing-part", values, repository.name))
        return loose if form.any_name else []
    content = _read_json(repository, index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(type(file) is str for file in places.values()):
        values = {"model": repository.name, "file": index}
        raise CheckpointError(Problem("damaged-index", values, repository.name))
    files = sorted(set(places.values()))
    missing = [file for file in files if file not in repository.files]
    if missing:
        values = {"index": index, "model": repository.name, "file": missing[0]}
        raise CheckpointError(Problem("missing-shard", values, repository.name))
    return files

"""A checkpoint: a model's tensors by name, its configuration and its small files, whatever stands behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.formats.safetensors import TensorHeader
from checkpoints.formats.torch_zip import CONVERT
from checkpoints.formats.weight_file import read_bytes, read_tensors
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.folder import Folder
from checkpoints.repositories.repository import Repository, Token
from checkpoints.repositories.subfolder import Part

if TYPE_CHECKING:
    from checkpoints.adapters.adapter import Adapter

# The form that is read first when there are several: one file, or an index of several, of weights.
FORMS = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# A text file beside the weights; tokenizers of large vocabularies reach some 35 MB.
MAX_SMALL_FILE = 200_000_000


class Checkpoint:
    """A model that can be read: headers when it is opened, weights by ranges when they are asked for.

    Raises:
        CheckpointError: there are no weights that can be read or no config, or a file is damaged.
    """

    adapters: tuple[Adapter, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def __init__(self, repository: Repository, is_bare: bool = False):
        """
        Args:
            repository: its files
            is_bare: whether it may be weights without a config
        """
        self.repository = repository
        self.name = repository.name
        self.is_bare = is_bare
        self.config = self._config()
        self.tensors: Mapping[str, TensorHeader] = self._headers()

    @property
    def version(self) -> str:
        return self.repository.version

    @property
    def is_remote(self) -> bool:
        """Whether reading a tensor waits for a network, so that reading ahead pays."""
        return self.repository.is_remote

    @property
    def read_by(self) -> Set[str]:
        """The ways that bytes came so far, see `Repository`."""
        return self.repository.read_by

    @property
    def files(self) -> Mapping[str, int]:
        """Sizes in bytes by path."""
        return self.repository.files

    @property
    def architecture(self) -> str:
        """The model class that the config names, or its model type."""
        architectures = self.config.get("architectures") or [self.config.get("model_type", "unknown")]
        return str(architectures[0])

    @cached_property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors.values())

    def has(self, file: str) -> bool:
        return file in self.files

    def read_file(self, file: str) -> bytes:
        """A small file, whole."""
        return Checkpoint.read_small(self.repository, file)

    @staticmethod
    def read_small(repository: Repository, file: str) -> bytes:
        size = repository.files[file]
        if size > MAX_SMALL_FILE:
            message = f"{file} has {size} bytes; a file beside the weights is expected to be small."
            raise CheckpointError(
                Problem("large-file", message, "Is it weights under another name?", repository.name)
            )
        return bytes(read_bytes(repository, file, 0, size))

    def read_json(self, file: str) -> Any:
        try:
            return json.loads(self.read_file(file))
        except ValueError as error:
            message = f"{file} of {self.name} is not JSON ({error})."
            raise CheckpointError(
                Problem("damaged-file", message, "Repair the model's repository.", self.name)
            ) from None

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer with a tensor's bytes from offset `start` (in bytes) on.

        Raises:
            CheckpointError: the bytes cannot be had.
        """
        header = self.tensors[tensor]
        self.read_range(header.file, header.start + start, buffer)

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        """The same by the place that a tensor's header names."""
        self.repository.read_into(file, start, buffer)

    def bytes_to_read(self, tensor: str) -> int:
        """Bytes that have to be fetched to read a tensor once."""
        return self.tensors[tensor].nbytes

    def interrupt(self) -> None:
        """Let reads that wait for a network in other threads end at once, for good."""
        self.repository.interrupt()

    def close(self) -> None:
        self.repository.close()

    def _config(self) -> dict[str, Any]:
        if not self.has("config.json"):
            if self.is_bare:
                return {}
            if self.has("adapter_config.json"):
                raise CheckpointError(self._lone_adapter())
            message = f"{self.name} has no config.json."
            raise CheckpointError(Problem("no-config", message, "Name a transformers model.", self.name))
        config = self.read_json("config.json")
        if not isinstance(config, dict):
            message = f"config.json of {self.name} is not a mapping."
            raise CheckpointError(
                Problem("damaged-file", message, "Repair the model's repository.", self.name)
            )
        return config

    def _lone_adapter(self) -> Problem:
        settings = self.read_json("adapter_config.json")
        base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
        message = f"{self.name} is an adapter, not a whole model."
        return Problem("adapter", message, f"Write `{base or 'BASE'}+{self.name}`.", self.name)

    def _headers(self) -> dict[str, TensorHeader]:
        files = self._weight_files()
        with ThreadPoolExecutor(min(8, len(files))) as pool:
            headers = [tensors for part in pool.map(self._header, files) for tensors in part.items()]
        return dict(headers)

    def _weight_files(self) -> list[str]:
        files = self.repository.files
        whole, pickled = (self._files_of(form) for form in FORMS)
        loose = [file for file in files if file.endswith(".safetensors") and "/" not in file]
        if found := whole or loose or pickled:
            return found
        if self.is_bare and len(files) == 1:
            return list(files)
        if any(file.endswith(WEIGHT_FILES[1:]) for file in files):
            message = f"{self.name} has its weights as pickles under other names than {FORMS[1]}."
            raise CheckpointError(Problem("pickle-only", message, CONVERT, self.name))
        if any(file.endswith(".gguf") for file in files):
            message = f"{self.name} holds GGUF files, which are quantised for llama.cpp."
            fix = "Name the model that they were made from."
            raise CheckpointError(Problem("gguf-only", message, fix, self.name))
        message = f"{self.name} has no weights that can be read."
        raise CheckpointError(
            Problem("no-weights", message, "Name a model with model.safetensors.", self.name)
        )

    def _files_of(self, form: str) -> list[str]:
        """The files of a form, from its index if there are several."""
        if self.has(form):
            return [form]
        index = f"{form}.index.json"
        if not self.has(index):
            return []
        files = sorted(set(self.read_json(index)["weight_map"].values()))
        missing = [file for file in files if not self.has(file)]
        if missing:
            message = f"{index} of {self.name} names {missing[0]}, which is not there."
            fix = "The upload of this model is not complete; tell its author."
            raise CheckpointError(Problem("missing-shard", message, fix, self.name))
        return files

    def _header(self, file: str) -> dict[str, TensorHeader]:
        found = read_tensors(self.repository, file)
        return found if file.endswith(".safetensors") else self._without_ties(found)

    def _without_ties(self, tensors: dict[str, TensorHeader]) -> dict[str, TensorHeader]:
        """The first of those that share their bytes, as safetensors files have it: the others are tied to it.

        A config that denies ties means them to be tensors of their own, equal for now.
        """
        if self.config.get("tie_word_embeddings") is False:
            return tensors
        first: dict[tuple[object, ...], str] = {}
        for name, tensor in tensors.items():
            first.setdefault((tensor.start, tensor.shape, tensor.nbytes or name), name)
        return {name: tensors[name] for name in first.values()}


def open_checkpoint(
    name: str,
    revision: str | None = None,
    *,
    token: Token = None,
    allow_folders: bool = True,
    is_bare: bool = False,
) -> Checkpoint:
    """Open a model: a folder or a file if there is one of this name (and these are allowed), else one on the Hub.

    Args:
        name: a folder, `owner/name`, or a place in one of them: `owner/name/folder`, a file of weights
        revision: of a Hub model: branch, tag or commit; None for its main branch
        token: whose access to use
        allow_folders: False on a server whose visitors must not read its disk
        is_bare: whether it may be weights without a config; a file of weights may

    Raises:
        CheckpointError: with one problem that says why.
    """
    repository = open_repository(name, revision, token, allow_folders)
    return Checkpoint(repository, is_bare or name.endswith(WEIGHT_FILES))


def open_repository(name: str, revision: str | None, token: Token, allow_folders: bool) -> Repository:
    """The files behind a name; see `open_checkpoint`."""
    path = Path(name).expanduser()
    if allow_folders and path.is_dir():
        return Folder(path)
    if allow_folders and path.is_file():
        return Folder(path.parent, path.name)
    # Imported here: the Hub's client takes most of a second, which a merge of folders need not wait for.
    from checkpoints.repositories.hub import HubRepository, hub_id

    words = name.split("/")
    owner, place = "/".join(words[:2]), "/".join(words[2:])
    if not hub_id(owner):
        kind = "neither a folder here nor a model's id" if allow_folders else "not a model's id"
        message = f"'{name}' is {kind}."
        raise CheckpointError(Problem("model-name", message, "Write `owner/name`.", name))
    repository = HubRepository(owner, revision, token)
    return Part(repository, place) if place else repository

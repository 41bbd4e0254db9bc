"""A checkpoint: a model's tensors by name, its configuration and its small files, whatever stands behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from merging.checkpoints.folder import Folder
from merging.checkpoints.header import TensorHeader, header_length, read_header
from merging.checkpoints.repository import Repository, Token
from merging.problems import CheckpointError, Problem

INDEX = "model.safetensors.index.json"
# One read of this size holds the header of nearly every shard.
HEADER_GUESS = 64 * 1024
# A text file beside the weights; tokenizers of large vocabularies reach some 35 MB.
MAX_SMALL_FILE = 200_000_000


class Checkpoint:
    """A model that can be read: headers when it is opened, weights by ranges when they are asked for.

    Raises:
        CheckpointError: there are no safetensors weights or no config, or a file is damaged.
    """

    def __init__(self, repository: Repository):
        self.repository = repository
        self.name = repository.name
        self.config = self._config()
        self.tensors: Mapping[str, TensorHeader] = self._headers()

    @property
    def version(self) -> str:
        return self.repository.version

    @property
    def architecture(self) -> str:
        """The model class that the config names, or its model type."""
        architectures = self.config.get("architectures") or [self.config.get("model_type", "unknown")]
        return str(architectures[0])

    @cached_property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors.values())

    def has(self, file: str) -> bool:
        return file in self.repository.files

    def read_file(self, file: str) -> bytes:
        """A small file, whole."""
        size = self.repository.files[file]
        if size > MAX_SMALL_FILE:
            message = f"{file} has {size} bytes; a file beside the weights is expected to be small."
            raise CheckpointError(
                Problem("large-file", message, "Is it weights under another name?", self.name)
            )
        buffer = bytearray(size)
        self.repository.read_into(file, 0, memoryview(buffer))
        return bytes(buffer)

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
        self.repository.read_into(header.file, header.start + start, buffer)

    def close(self) -> None:
        self.repository.close()

    def _config(self) -> dict[str, Any]:
        if not self.has("config.json"):
            if self.has("adapter_config.json"):
                message = f"{self.name} is an adapter, not a whole model; adapters cannot be merged yet."
                fix = "Merge it into its base with PEFT first, and name the result."
                raise CheckpointError(Problem("adapter", message, fix, self.name))
            message = f"{self.name} has no config.json."
            raise CheckpointError(Problem("no-config", message, "Name a transformers model.", self.name))
        config = self.read_json("config.json")
        if not isinstance(config, dict):
            message = f"config.json of {self.name} is not a mapping."
            raise CheckpointError(
                Problem("damaged-file", message, "Repair the model's repository.", self.name)
            )
        return config

    def _headers(self) -> dict[str, TensorHeader]:
        files = self._weight_files()
        with ThreadPoolExecutor(min(8, len(files))) as pool:
            headers = [tensors for part in pool.map(self._header, files) for tensors in part.items()]
        return dict(headers)

    def _weight_files(self) -> list[str]:
        if self.has("model.safetensors"):
            return ["model.safetensors"]
        if self.has(INDEX):
            files = sorted(set(self.read_json(INDEX)["weight_map"].values()))
            missing = [file for file in files if not self.has(file)]
            if missing:
                message = f"{INDEX} of {self.name} names {missing[0]}, which is not there."
                fix = "The upload of this model is not complete; tell its author."
                raise CheckpointError(Problem("missing-shard", message, fix, self.name))
            return files
        loose = [file for file in self.repository.files if file.endswith(".safetensors") and "/" not in file]
        if loose:
            return loose
        if any(file.endswith((".bin", ".pt", ".pth")) for file in self.repository.files):
            message = f"{self.name} has its weights as pickles (.bin) only; they can run code when opened."
            fix = "Convert it at https://huggingface.co/spaces/safetensors/convert first."
            raise CheckpointError(Problem("pickle-only", message, fix, self.name))
        if any(file.endswith(".gguf") for file in self.repository.files):
            message = f"{self.name} holds GGUF files, which are quantised for llama.cpp."
            fix = "Name the model that they were made from."
            raise CheckpointError(Problem("gguf-only", message, fix, self.name))
        message = f"{self.name} has no safetensors weights."
        raise CheckpointError(
            Problem("no-weights", message, "Name a model with model.safetensors.", self.name)
        )

    def _header(self, file: str) -> dict[str, TensorHeader]:
        size = self.repository.files[file]
        beginning = bytearray(min(HEADER_GUESS, size))
        self.repository.read_into(file, 0, memoryview(beginning))
        length = header_length(file, bytes(beginning[:8]), size)
        if length > len(beginning):
            rest = bytearray(length - len(beginning))
            self.repository.read_into(file, len(beginning), memoryview(rest))
            beginning += rest
        return read_header(file, bytes(beginning[:length]), size)


def open_checkpoint(
    name: str, revision: str | None = None, *, token: Token = None, allow_folders: bool = True
) -> Checkpoint:
    """Open a model: a folder if there is one of this name (and folders are allowed), else a Hub id.

    Args:
        name: a folder or `owner/name`
        revision: of a Hub model: branch, tag or commit; None for its main branch
        token: whose access to use
        allow_folders: False on a server whose visitors must not read its disk

    Raises:
        CheckpointError: with one problem that says why.
    """
    path = Path(name).expanduser()
    if allow_folders and path.is_dir():
        return Checkpoint(Folder(path))
    # Imported here: the Hub's client takes most of a second, which a merge of folders need not wait for.
    from merging.checkpoints.hub import HubRepository, hub_id

    if not hub_id(name):
        kind = "neither a folder here nor a model's id" if allow_folders else "not a model's id"
        message = f"'{name}' is {kind}."
        raise CheckpointError(Problem("model-name", message, "Write `owner/name`.", name))
    return Checkpoint(HubRepository(name, revision, token))

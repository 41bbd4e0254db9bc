"""A model in GGUF files, as a repository with a config and a tokenizer, which the files' metadata describe."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from checkpoints.formats.header import TensorHeader
from checkpoints.gguf.architectures import FREQUENCIES
from checkpoints.gguf.blocks import check_installed
from checkpoints.gguf.config import ConfigError, config_of, find_architecture
from checkpoints.gguf.header import GgufHeader, Value, read_gguf
from checkpoints.gguf.tokenizer import splitting_of, tokenizer_documents
from checkpoints.gguf_files import models, parts
from checkpoints.json_value import parse_json
from checkpoints.names import hub_id
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.repository import MAX_CONFIG, Location, Repository, read_bytes, read_small
from checkpoints.tokenizer_files import has_vocabulary
from checkpoints.wording import few

CONFIG, GENERATION = "config.json", "generation_config.json"
# What a config beside the files has to have in common with the metadata, or it is another model's.
SAME = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
)
# Models that a file may name as its bases.
MAX_BASES = 8
# Bytes of the frequencies' factors: no head is wider than 2048.
MAX_FACTORS = 4096


class GgufRepository:
    """The files of a repository, and those that its GGUF files describe.

    Args:
        whole: the repository
        described: the content of files, by name, that are not in it or are replaced
    """

    def __init__(self, whole: Repository, described: Mapping[str, bytes]):
        self.whole = whole
        self.described = described
        self.name = whole.name
        self.version = whole.version
        self.is_folder = whole.is_folder
        self.files = {**whole.files, **{file: len(content) for file, content in described.items()}}

    @property
    def read_by(self) -> Set[str]:
        return self.whole.read_by

    def is_local(self, file: str) -> bool:
        return file in self.described or self.whole.is_local(file)

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        content = self.described.get(file)
        if content is None:
            self.whole.read_into(file, start, buffer)
        else:
            buffer[:] = content[start : start + len(buffer)]

    def location(self, files: Iterable[str]) -> Location:
        return self.whole.location(files)

    def interrupt(self) -> None:
        self.whole.interrupt()

    def close(self) -> None:
        self.whole.close()


@dataclass(frozen=True)
class GgufModel:
    """What the headers of a model say.

    Args:
        repository: with a config and a tokenizer
        tensors: as they are stored
        warnings: what could not be made of the metadata
    """

    repository: GgufRepository
    tensors: dict[str, TensorHeader]
    warnings: tuple[Problem, ...]


def read_gguf_model(repository: Repository) -> GgufModel:
    """Read the headers of the model in a repository's GGUF files.

    Raises:
        CheckpointError: it has several models, or one that is damaged, incomplete or of an unknown architecture.
    """
    check_installed(repository.name)
    file = _chosen(repository)
    headers = [_read(repository, part) for part in _present(repository, file)]
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    whole = GgufHeader(headers[0].metadata, tensors)
    try:
        config = config_of(whole, _factors(repository, tensors))
        architecture = find_architecture(whole)
    except ConfigError as error:
        values = {"model": repository.name, "file": file, "error": str(error)}
        raise CheckpointError(Problem("gguf-not-understood", values, repository.name)) from None
    settings = {
        "quant_method": "gguf",
        "model_type": architecture.model_type,
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "made_from": _made_from(whole.metadata),
    }
    described = {
        CONFIG: {**_beside(repository, config), "quantization_config": settings},
        GENERATION: _generation(whole),
    }
    warnings: tuple[Problem, ...] = ()
    if not has_vocabulary(repository.files):
        tokenizer = tokenizer_documents(whole.metadata)
        described |= tokenizer or {}
        values = {"model": repository.name, "kind": splitting_of(whole.metadata)}
        warnings = () if tokenizer else (Problem("gguf-tokenizer", values, repository.name),)
    contents = {
        name: json.dumps(content, ensure_ascii=False).encode()
        for name, content in described.items()
        if name == CONFIG or name not in repository.files
    }
    return GgufModel(GgufRepository(repository, contents), tensors, warnings)


def _chosen(repository: Repository) -> str:
    """The first file of the only model.

    Raises:
        CheckpointError: there are several.
    """
    found = models(repository.files)
    if len(found) != 1:
        sizes = {file: sum(repository.files.get(part, 0) for part in parts(file)) for file in found}
        largest = max(found, key=lambda file: sizes[file])
        values = {"model": repository.name, "files": few(found), "file": largest}
        raise CheckpointError(Problem("several-gguf", values, repository.name))
    return found[0]


def _present(repository: Repository, first: str) -> list[str]:
    """All files of a model.

    Raises:
        CheckpointError: one is missing.
    """
    files = parts(first)
    missing = next((file for file in files if file not in repository.files), None)
    if missing:
        values = {"index": first, "model": repository.name, "file": missing}
        raise CheckpointError(Problem("missing-shard", values, repository.name))
    return files


def _read(repository: Repository, file: str) -> GgufHeader:
    size = repository.files[file]
    return read_gguf(file, size, lambda start, nbytes: bytes(read_bytes(repository, file, start, nbytes)))


def _factors(repository: Repository, tensors: Mapping[str, TensorHeader]) -> list[float] | None:
    """By what the frequencies of the rotary embedding are divided."""
    for name in FREQUENCIES:
        header = tensors.get(name)
        if header is None:
            continue
        if header.dtype != "F32" or not 0 < header.nbytes <= MAX_FACTORS:
            raise ConfigError(f"{name} is of type {header.dtype} and has {header.elements} numbers")
        data = read_bytes(repository, header.file, header.start, header.nbytes)
        return list(struct.unpack(f"<{header.elements}f", data))
    return None


def _beside(repository: Repository, config: dict[str, Any]) -> dict[str, Any]:
    """The config beside the files, which says more, if it is of the same model."""
    if CONFIG not in repository.files:
        return config
    try:
        found = parse_json(read_small(repository, CONFIG, MAX_CONFIG))
    except ValueError:
        return config
    is_same = isinstance(found, dict) and all(found.get(key) == config[key] for key in SAME)
    return {**found, "tie_word_embeddings": config["tie_word_embeddings"]} if is_same else config


def _made_from(metadata: Mapping[str, Value]) -> list[str]:
    """The ids on the Hub of the models that the file says it was made from; what they were tuned from among them."""
    urls = (metadata.get(f"general.base_model.{number}.repo_url") for number in range(MAX_BASES))
    named = (url.removeprefix("https://huggingface.co/") for url in urls if isinstance(url, str))
    return [name for name in named if hub_id(name)]


def _generation(header: GgufHeader) -> dict[str, Any]:
    """The content of generation_config.json: the tokens that begin and end an answer."""
    roles = ("bos", "eos", "padding", "eot")
    found = {role: header.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in roles}
    bos, eos, padding, eot = (number if type(number) is int else None for number in found.values())
    ends = [number for number in dict.fromkeys((eos, eot)) if number is not None]
    ids = {"bos_token_id": bos, "eos_token_id": ends if len(ends) > 1 else eos, "pad_token_id": padding}
    return {key: number for key, number in ids.items() if number is not None}

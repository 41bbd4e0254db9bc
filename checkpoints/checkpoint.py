"""A checkpoint: a model's tensors by name, its configuration and its small files, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Protocol

from checkpoints.formats.header import TensorHeader
from checkpoints.json_value import parse_json
from checkpoints.problems import CheckpointError, Problem


class AppliedAdapter(Protocol):
    """An adapter that is applied to a model."""

    @property
    def name(self) -> str:
        """As the user named it, without the revision."""

    @property
    def revision(self) -> str | None:
        """As the user named it."""

    @property
    def version(self) -> str:
        """Identifies its content; see `Repository.version`."""

    @property
    def scale(self) -> float:
        """How much of its change counts: 0 gives the base back, 1 is all of it."""

    @property
    def is_folder(self) -> bool:
        """Whether it is on this machine, and not on the Hub."""

    @property
    def is_cached(self) -> bool:
        """Whether it is one on the Hub whose weights this machine's cache has."""

    @property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """The headers of its own tensors, by name."""


class Checkpoint(Protocol):
    """A model that can be read: its headers once it is open, its weights by ranges when they are asked for."""

    @property
    def name(self) -> str:
        """As the user named it, adapters included."""

    @property
    def version(self) -> str:
        """Identifies the content of the model itself, without adapters; see `Repository.version`."""

    @property
    def is_folder(self) -> bool:
        """Whether the model itself, without adapters, is on this machine."""

    @property
    def is_cached(self) -> bool:
        """Whether the model itself, without adapters, is one on the Hub whose weights this machine's cache has."""

    @property
    def is_remote(self) -> bool:
        """Whether reading some tensor waits for a network, so that prefetching pays."""

    @property
    def read_by(self) -> Set[str]:
        """How bytes were read so far; see `Repository.read_by`."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json; empty for bare weights."""

    @property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """The header of each tensor, by name."""

    @property
    def files(self) -> Mapping[str, int]:
        """Sizes in bytes by path."""

    @property
    def adapters(self) -> tuple[AppliedAdapter, ...]:
        """The adapters that are applied, in order."""

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What the user should know of how the parts fit together."""

    def read_file(self, file: str) -> bytes:
        """Read a small file whole.

        Raises:
            CheckpointError: it is too large, or cannot be read.
        """

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of a file from offset `start` on.

        Raises:
            CheckpointError: the bytes cannot be read.
            Cancelled: `interrupt` was called.
        """

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of a tensor from offset `start` (in bytes) on.

        Raises:
            CheckpointError: the bytes cannot be read.
            Cancelled: `interrupt` was called.
        """

    def bytes_to_read(self, tensor: str) -> int:
        """How many bytes are fetched to read a tensor once."""

    def interrupt(self) -> None:
        """End reads that wait for a network in other threads; the checkpoint cannot be read afterwards."""

    def close(self) -> None:
        """Release files and connections."""


def read_json(checkpoint: Checkpoint, file: str) -> Any:
    """The content of a JSON file.

    >>> read_json(model, "generation_config.json")  # doctest: +SKIP

    Raises:
        CheckpointError: it is not JSON, or cannot be read.
    """
    try:
        return parse_json(checkpoint.read_file(file))
    except ValueError as error:
        raise not_json(checkpoint.name, file, error) from None


def read_mapping(checkpoint: Checkpoint, file: str) -> dict[str, Any]:
    """The settings in a JSON file; none where it is missing, or holds something else.

    Raises:
        CheckpointError: it is not JSON, or cannot be read.
    """
    found = read_json(checkpoint, file) if file in checkpoint.files else {}
    return found if isinstance(found, dict) else {}


def not_json(name: str, file: str, error: ValueError) -> CheckpointError:
    values = {"file": file, "model": name, "error": str(error)}
    return CheckpointError(Problem("not-json", values, name))

"""A checkpoint seen in another way: under other names, in other rows, as plain numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

from checkpoints.checkpoint import Checkpoint
from checkpoints.formats.header import TensorHeader


class View:
    """A checkpoint in which a subclass changes some tensors; all else is the checkpoint's own.

    Args:
        own: the checkpoint itself; closed with this one
    """

    def __init__(self, own: Checkpoint):
        self.own = own
        self.name = own.name
        self.version = own.version
        self.is_folder = own.is_folder
        self.is_cached = own.is_cached
        self.config = own.config
        self.adapters = own.adapters
        self.warnings = own.warnings
        self.tensors: Mapping[str, TensorHeader] = own.tensors

    def own_names(self, tensors: Collection[str]) -> Collection[str]:
        """The checkpoint's own names of the tensors that these are, or are computed from."""
        return tensors

    @property
    def is_remote(self) -> bool:
        return self.own.is_remote

    @property
    def read_by(self) -> Set[str]:
        return self.own.read_by

    @property
    def files(self) -> Mapping[str, int]:
        return self.own.files

    def read_file(self, file: str) -> bytes:
        return self.own.read_file(file)

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        self.own.read_range(file, start, buffer)

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        self.own.read_into(tensor, start, buffer)

    def bytes_to_read(self, tensor: str) -> int:
        return self.own.bytes_to_read(tensor)

    def interrupt(self) -> None:
        self.own.interrupt()

    def close(self) -> None:
        self.own.close()

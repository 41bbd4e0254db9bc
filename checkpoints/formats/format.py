"""A format of weight files: what its files are called, and how their headers are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from checkpoints.formats.header import TensorHeader

# Reads bytes of a file: offset, length.
ReadBytes = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: in messages and tests
        suffixes: how names of its files end
        read: the headers of a file by tensor name, given its path, its size in bytes and a way to read it; reads no
            tensors, and raises CheckpointError for a file that is damaged or holds anything else
        model: the file of a whole model; a model in several files has an index beside them, see `index`
        adapter: the file of a PEFT adapter
        any_name: whether files of other names in the model's folder count as its weights, too
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[str, int, ReadBytes], dict[str, TensorHeader]]
    model: str
    adapter: str
    any_name: bool = False

    @property
    def index(self) -> str:
        """The file that says which file of a model holds which tensor."""
        return f"{self.model}.index.json"

    def includes(self, file: str) -> bool:
        """Whether a file is of this format, by its name."""
        return file.endswith(self.suffixes)

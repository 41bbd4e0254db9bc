"""Where a model's files come from: a folder, the Hub, a bucket or an object store, read by ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol

from checkpoints.problems import CheckpointError, Problem

# A text file beside the weights; tokenizers of large vocabularies reach some 35 MB.
MAX_SMALL_FILE = 200_000_000
# A config: its numbers and lists become objects, which take many times their text's size in memory.
MAX_CONFIG = 20_000_000

# What may stand before the id of a repository on the Hub, and does in the address of a result.
HUB_SCHEME = "hf://"

# None: the machine's own login. False: anonymous. A callable is called at each use, for tokens that expire.
Token = str | bool | Callable[[], str | None] | None


def current_token(token: Token) -> str | bool | None:
    """The token to send now, in the form that huggingface_hub takes."""
    if callable(token):
        return token() or False
    return None if token is True else token


@dataclass(frozen=True)
class Location:
    """Where files are, as data: with it a repository is opened without asking the Hub anything.

    Args:
        name: a folder, `owner/name`, or an address in an object store or a bucket
        version: see `Repository.version`
        is_folder: whether it is a folder on this machine
        files: sizes in bytes by path in the whole repository
        place: the folder or file inside the repository on the Hub; empty for all of it
    """

    name: str
    version: str
    is_folder: bool
    files: Mapping[str, int] = field(default_factory=dict)
    place: str = ""


class Repository(Protocol):
    """A set of files that does not change while it is read."""

    @property
    def name(self) -> str:
        """As the user named it."""

    @property
    def version(self) -> str:
        """Identifies the content of the files: a commit on the Hub, else a fingerprint."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder on this machine."""

    @property
    def files(self) -> Mapping[str, int]:
        """Sizes in bytes by path."""

    @property
    def read_by(self) -> Set[str]:
        """How bytes were read so far: "folder", over a network "HTTP" or "Xet", and "cache"."""

    def is_local(self, file: str) -> bool:
        """Whether a file is read from this machine's disk, so that there is no network to wait for."""

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of a file from offset `start` on.

        Raises:
            CheckpointError: the bytes cannot be had.
            Cancelled: `interrupt` was called.
        """

    def location(self, files: Iterable[str]) -> Location:
        """Where these of its files are, for `open_location`."""

    def interrupt(self) -> None:
        """End reads that wait for a network in other threads; nothing can be read afterwards."""

    def close(self) -> None:
        """Release files and connections."""


def read_bytes(repository: Repository, file: str, start: int, nbytes: int) -> bytearray:
    """Bytes of a file from offset `start` on."""
    buffer = bytearray(nbytes)
    repository.read_into(file, start, memoryview(buffer))
    return buffer


def read_small(repository: Repository, file: str, most: int = MAX_SMALL_FILE) -> bytes:
    """A small file, whole.

    Args:
        repository: that has the file
        file: its path
        most: bytes that it may have

    Raises:
        CheckpointError: it is larger, or cannot be read.
    """
    size = repository.files[file]
    if size > most:
        raise CheckpointError(Problem("large-file", {"file": file, "size": size}, repository.name))
    return bytes(read_bytes(repository, file, 0, size))

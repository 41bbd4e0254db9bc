"""The header of a GGUF file: what it says of the model, and where its tensors are. Nothing but the header is read.

    4 bytes GGUF, uint32 version, uint64 tensors, uint64 keys
    keys      text, uint32 kind, value
    tensors   text, uint32 axes, uint64 sizes (the last axis first), uint32 type, uint64 offset
    padding to general.alignment, then the tensors' bytes

A text is a uint64 length and its bytes. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.formats.format import ReadBytes
from checkpoints.formats.header import TensorHeader, are_sizes, is_within_limits, shown
from checkpoints.formats.safetensors import MAX_HEADER
from checkpoints.gguf.blocks import block_type
from checkpoints.problems import CheckpointError, Problem

MAGIC, VERSIONS = b"GGUF", (2, 3)
# How `struct` calls the plain kinds of values, by their numbers in the format.
PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
ALIGNMENT = "general.alignment"
# Limits that no model reaches: keys, tensors, bytes of a text, entries of all lists of a file, axes.
MAX_KEYS, MAX_TENSORS, MAX_TEXT, MAX_ENTRIES, MAX_AXES = 10_000, 200_000, 2_000_000, 4_000_000, 4
# Bytes that are read at once. The vocabulary makes most headers 2 to 12 MB long.
FIRST, NEXT = 1 << 20, 4 << 20

Value = str | int | float | bool | list[Any]


@dataclass(frozen=True)
class GgufHeader:
    """A header.

    Args:
        metadata: the keys with their values
        tensors: by their names in the file; `dtype` is the type's name, such as Q4_K
    """

    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorHeader]


class _DamageError(Exception):
    """The bytes are no header; the text says why."""


def read_gguf(file: str, size: int, read: ReadBytes) -> GgufHeader:
    """Read the header of a file.

    Args:
        file: its path, for messages and for the headers
        size: of the whole file, in bytes
        read: gets bytes of the file by offset and length

    Raises:
        CheckpointError: it is no GGUF file, is damaged, or exceeds a limit.
    """
    source = _Source(size, read)
    try:
        tensors, metadata = _beginning(source)
        entries = [_entry(source) for _ in range(tensors)]
        alignment = metadata.get(ALIGNMENT, 32)
        is_power = type(alignment) is int and 0 < alignment <= 1 << 20 and alignment & (alignment - 1) == 0
        _expect(is_power, f"an alignment of {shown(str(alignment))}")
        assert isinstance(alignment, int)
        start = -(-source.position // alignment) * alignment
        found = {entry.name: _placed(entry, file, start, size) for entry in entries}
        _expect(len(found) == len(entries), "two tensors of one name")
    except _DamageError as error:
        raise CheckpointError(Problem("damaged-gguf", {"file": file, "error": str(error)}, file)) from None
    return GgufHeader(metadata, found)


def read_metadata(file: str, size: int, read: ReadBytes) -> Mapping[str, Value]:
    """The keys of a file's header with their values; its tensors are not looked at. Arguments as for `read_gguf`.

    Raises:
        CheckpointError: it is no GGUF file, is damaged, or exceeds a limit.
    """
    try:
        return _beginning(_Source(size, read))[1]
    except _DamageError as error:
        raise CheckpointError(Problem("damaged-gguf", {"file": file, "error": str(error)}, file)) from None


def _beginning(source: _Source) -> tuple[int, dict[str, Value]]:
    """How many tensors there are, and the keys."""
    magic, version, tensors, keys = source.unpack("4sIQQ")
    _expect(magic == MAGIC, "it does not begin with GGUF")
    _expect(version in VERSIONS, f"version {version} of the format, and 2 and 3 are read")
    _expect(keys <= MAX_KEYS, f"{keys} keys")
    _expect(tensors <= MAX_TENSORS, f"{tensors} tensors")
    return tensors, dict(_key(source) for _ in range(keys))


class _Source:
    """The bytes of a header, one after the other."""

    def __init__(self, size: int, read: ReadBytes):
        self.size = size
        self.position = 0
        self.entries = 0  # of lists, so far
        self._read = read
        self._begin = 0
        self._buffer = b""

    def take(self, count: int) -> bytes:
        at = self.position - self._begin
        if at + count > len(self._buffer):
            self._fill(count)
            at = 0
        self.position += count
        return self._buffer[at : at + count]

    def _fill(self, count: int) -> None:
        """Hold at least `count` bytes from the position on."""
        _expect(self.position + count <= self.size, "the file ends in its header")
        _expect(self.position + count <= MAX_HEADER, f"a header of more than {MAX_HEADER} bytes")
        left = self._buffer[self.position - self._begin :]
        end = self._begin + len(self._buffer)
        wanted = max(count - len(left), NEXT if end else FIRST)
        self._buffer = left + self._read(end, min(wanted, self.size - end))
        self._begin = self.position

    def unpack(self, codes: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{codes}", self.take(struct.calcsize(f"<{codes}")))

    def text(self) -> str:
        (length,) = self.unpack("Q")
        _expect(length <= MAX_TEXT, f"a text of {length} bytes")
        return self.take(length).decode("utf-8", "replace")


def _key(source: _Source) -> tuple[str, Value]:
    name = source.text()
    (kind,) = source.unpack("I")
    if kind != LIST:
        return name, _value(source, kind, name)
    kind, count = source.unpack("IQ")
    source.entries += count
    _expect(source.entries <= MAX_ENTRIES, f"lists of more than {MAX_ENTRIES} entries")
    if kind == TEXT:
        return name, [source.text() for _ in range(count)]
    _expect(kind in PLAIN, f"{shown(name)}: a list of kind {kind}")
    return name, list(source.unpack(f"{count}{PLAIN[kind]}"))


def _value(source: _Source, kind: int, name: str) -> Value:
    if kind == TEXT:
        return source.text()
    _expect(kind in PLAIN, f"{shown(name)}: a value of kind {kind}")
    value: Value = source.unpack(PLAIN[kind])[0]
    return value


@dataclass(frozen=True)
class _Entry:
    """A tensor in the table: its sizes with the last axis first, its type, and its offset after the header."""

    name: str
    sizes: tuple[int, ...]
    kind: int
    offset: int


def _entry(source: _Source) -> _Entry:
    name = source.text()
    (axes,) = source.unpack("I")
    _expect(0 < axes <= MAX_AXES, f"{shown(name)}: {axes} axes")
    *sizes, kind, offset = source.unpack(f"{axes}QIQ")
    return _Entry(name, tuple(sizes), kind, offset)


def _placed(entry: _Entry, file: str, start: int, size: int) -> TensorHeader:
    """Its header; `start` is the first byte after the file's header."""
    name, shape = shown(entry.name), tuple(reversed(entry.sizes))
    is_sized = are_sizes([*shape, entry.offset]) and is_within_limits(entry.name, shape) and all(shape)
    _expect(is_sized, f"{name}: its sizes {list(shape)}")
    kind = block_type(entry.kind)
    _expect(kind is not None, f"{name}: type {entry.kind} cannot be read")
    assert kind
    _expect(shape[-1] % kind.elements == 0, f"{name}: rows of {shape[-1]} in blocks of {kind.elements}")
    header = TensorHeader(entry.name, kind.name, shape, file, start + entry.offset, 0)
    nbytes = header.elements // kind.elements * kind.nbytes
    _expect(header.start + nbytes <= size, f"{name}: the file ends before it does")
    return TensorHeader(entry.name, kind.name, shape, file, header.start, nbytes)


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise _DamageError(otherwise)

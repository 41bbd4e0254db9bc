"""safetensors: a header with the names, dtypes, shapes and places of the tensors, then their bytes.

Format: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes without gaps.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from checkpoints.dtypes import is_known, itemsize
from checkpoints.formats.format import Format, ReadBytes
from checkpoints.formats.header import (
    MAX_AXES,
    MAX_TENSORS,
    TensorHeader,
    are_sizes,
    is_within_limits,
    shown,
)
from checkpoints.problems import CheckpointError, Problem

# As in the safetensors library: a longer header is an attack, not a model.
MAX_HEADER = 100_000_000
# Commas, brackets and braces of a header: an entry of the most axes has some MAX_AXES commas, and five brackets.
# Counting them takes milliseconds, and parsing millions of them seconds.
MAX_MARKS = MAX_TENSORS * (MAX_AXES + 8)
# One read of this size holds the header of nearly every shard.
HEADER_GUESS = 64 * 1024
# How a file of Git LFS begins that stands for another one. Read as a length it is far too large.
LFS = b"version "


def read_safetensors(file: str, size: int, read: ReadBytes) -> dict[str, TensorHeader]:
    """See `Format.read`."""
    beginning = read(0, min(HEADER_GUESS, size))
    length = header_length(file, beginning[:8], size)
    if length > len(beginning):
        beginning += read(len(beginning), length - len(beginning))
    return read_header(file, beginning[:length], size)


def header_length(file: str, beginning: bytes, size: int) -> int:
    """Bytes up to the first tensor, from the first eight bytes of a file of `size` bytes.

    Raises:
        CheckpointError: no safetensors file begins so.
    """
    if beginning.startswith(LFS):
        raise CheckpointError(Problem("lfs-pointer", {"file": file}, file))
    length = 8 + int.from_bytes(beginning[:8], "little")
    if len(beginning) < 8 or length > min(size, MAX_HEADER):
        raise _damaged("header-length", file, {"length": length, "size": size})
    return length


def read_header(file: str, header: bytes, size: int) -> dict[str, TensorHeader]:
    """The tensors of a file, by name.

    Args:
        file: its path, for messages and for the headers
        header: its first `header_length` bytes
        size: of the whole file, in bytes

    Raises:
        CheckpointError: the header is not JSON, or does not fit the file.
    """
    found = {name: _tensor(file, len(header), name, entry) for name, entry in _entries(file, header[8:])}
    end = len(header)
    for tensor in sorted(found.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != end:
            raise _damaged("header-gap", file, {"tensor": tensor.name})
        if is_known(tensor.dtype) and tensor.nbytes != tensor.elements * itemsize(tensor.dtype):
            found_bytes = {"tensor": tensor.name, "bytes": tensor.nbytes, "shape": list(tensor.shape)}
            raise _damaged("header-tensor-size", file, found_bytes)
        end += tensor.nbytes
    if end != size:
        raise _damaged("header-file-size", file, {"size": size, "end": end})
    return found


def _entries(file: str, text: bytes) -> Iterable[tuple[str, Any]]:
    """The entries of a header, without the metadata."""
    if text.count(b"data_offsets") > MAX_TENSORS or sum(map(text.count, (b",", b"[", b"{"))) > MAX_MARKS:
        raise _damaged("long-header", file, {"most": MAX_TENSORS})
    try:
        # The format wants an object at once, and the library reads nothing else.
        entries: Any = json.loads(text) if text.startswith(b"{") else None
        metadata = entries.pop("__metadata__", None)
        if metadata is not None and not all(type(value) is str for value in metadata.values()):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged("header-unreadable", file, {"error": type(error).__name__}) from error
    return entries.items()  # type: ignore[no-any-return]


def _tensor(file: str, start: int, name: str, entry: Any) -> TensorHeader:
    """The header of a tensor; `start` is the first byte after the file's header."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [first, end]} if (
            are_sizes([*shape, first, end]) and first <= end
        ):
            if not is_within_limits(name, shape):
                raise _damaged("tensor-limits", file, {"tensor": shown(name), "axes": len(shape)})
            return TensorHeader(name, dtype, tuple(shape), file, start + first, end - first)
    raise _damaged("header-entry", file, {"tensor": shown(name)})


def _damaged(code: str, file: str, values: Mapping[str, Any]) -> CheckpointError:
    return CheckpointError(Problem(code, {"file": file, **values}, file))


def write_header(tensors: Iterable[TensorHeader]) -> bytes:
    """The header of a file that holds these tensors in this order, padded as safetensors' own writer pads it.

    >>> len(write_header([TensorHeader("weight", "F32", (2, 2), "", 0, 16)]))
    104
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.nbytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


SAFETENSORS = Format(
    "safetensors",
    (".safetensors",),
    read_safetensors,
    model="model.safetensors",
    adapter="adapter_model.safetensors",
    any_name=True,
)

"""Files of `torch.save`: a zip archive, not compressed, of a pickle and raw storages.

The pickle is read, not run (see `pickled`), and the tensors' bytes then come by ranges like any other's.
Files from before torch 1.6 are bare pickles with no directory, and are refused.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import Any

from checkpoints.dtypes import itemsize
from checkpoints.formats.format import Format, ReadBytes
from checkpoints.formats.header import TensorHeader, is_within_limits, shown
from checkpoints.formats.pickled import PickledTensor, PickleError, read_pickle
from checkpoints.formats.safetensors import MAX_HEADER
from checkpoints.problems import CheckpointError, Problem

# One read of this size holds the directory of nearly every shard, some hundred bytes a tensor.
TAIL = 64 * 1024
# torch begins every entry's bytes at a multiple of this.
ALIGNMENT = 64
LOCAL_HEADER, MOST_EXTRA = 30, 65535
ENCRYPTED, SIZES_FOLLOW = 0x01, 0x08


def read_torch_zip(file: str, size: int, read: ReadBytes) -> dict[str, TensorHeader]:
    """The tensors of a file, by name, in the order of the pickle.

    Args:
        file: its path, for messages and for the headers
        size: of the whole file, in bytes
        read: gets bytes of the file by offset and length

    Raises:
        CheckpointError: it is not such a file, or holds anything but contiguous tensors by name.
    """

    def read_inside(start: int, nbytes: int) -> bytes:
        if not 0 <= start <= start + nbytes <= size:
            raise zipfile.BadZipFile
        return read(start, nbytes)

    try:
        entries = _entries(file, size, read_inside)
        [prefix] = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        byteorder = entries.get(prefix + "byteorder")
        if byteorder and byteorder.crc != zlib.crc32(b"little"):  # which spares a request
            raise _refusal("pickle-big-endian", file)
        pickled = read_pickle(_content(entries[prefix + "data.pkl"], read_inside))
    except PickleError as error:
        raise _refusal(error.code, file, **error.values) from error
    except (zipfile.BadZipFile, ValueError) as error:
        raise _refusal("pickle-not-whole", file) from error
    if not isinstance(pickled, dict):
        raise _refusal("pickle-no-names", file)
    found = {}
    for name, tensor in pickled.items():
        if not isinstance(tensor, PickledTensor):
            raise _refusal("pickle-no-tensor", file, name=shown(name))
        found[name] = _header(file, name, tensor, entries.get(f"{prefix}data/{tensor.storage.key}"))
    return found


def _header(file: str, name: str, tensor: PickledTensor, entry: _Entry | None) -> TensorHeader:
    if not is_within_limits(name, tensor.shape):
        raise _refusal("tensor-limits", file, tensor=shown(name), axes=len(tensor.shape))
    if not tensor.is_contiguous:
        raise _refusal("pickle-view", file, tensor=name)
    storage = tensor.storage
    width = itemsize(storage.dtype)
    header = TensorHeader(name, storage.dtype, tensor.shape, file, 0, 0)
    nbytes = header.elements * width
    if (
        entry is None
        or entry.nbytes != storage.elements * width
        or tensor.offset * width + nbytes > entry.nbytes
    ):
        raise _refusal("pickle-bytes-missing", file, tensor=name)
    return replace(header, start=entry.start + tensor.offset * width, nbytes=nbytes)


@dataclass(frozen=True)
class _Entry:
    """A file of the archive: where its bytes are, and their checksum."""

    start: int
    nbytes: int
    crc: int


def _content(entry: _Entry, read: ReadBytes) -> bytes:
    if entry.nbytes > MAX_HEADER:
        raise zipfile.BadZipFile
    data = read(entry.start, entry.nbytes)
    if zlib.crc32(data) != entry.crc:
        raise zipfile.BadZipFile
    return data


def _entries(file: str, size: int, read: ReadBytes) -> dict[str, _Entry]:
    """The archive's directory: the place of each entry's bytes."""
    try:
        archive = zipfile.ZipFile(_Window(size, read))
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise _refusal("pickle-old", file) from None
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [info.header_offset for info in infos[1:]] + [archive.start_dir]
    return {info.filename: _entry(file, info, end, read) for info, end in zip(infos, ends, strict=True)}


def _entry(file: str, info: zipfile.ZipInfo, end: int, read: ReadBytes) -> _Entry:
    """Find an entry's bytes.

    They follow a header that alone says how long it is, which would take a request for each entry. But there are no
    gaps between entries, and torch aligns their bytes: counted back from the next entry, only one place fits.
    """
    if info.flag_bits & ENCRYPTED or info.compress_type != zipfile.ZIP_STORED:
        raise _refusal("pickle-compressed", file, name=info.filename)
    least = info.header_offset + LOCAL_HEADER + len(info.orig_filename.encode())
    for descriptor in (16, 24) if info.flag_bits & SIZES_FOLLOW else (0,):
        start = end - descriptor - info.file_size
        if start % ALIGNMENT == 0 and least <= start <= least + MOST_EXTRA:
            break
    else:
        local = read(info.header_offset, LOCAL_HEADER)
        name, extra = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
        start = info.header_offset + LOCAL_HEADER + name + extra
        if not local.startswith(b"PK\x03\x04") or start + info.file_size > end:
            raise zipfile.BadZipFile
    return _Entry(start, info.file_size, info.CRC)


class _Window(io.RawIOBase):
    """The archive as `zipfile` wants to see it, which reads the end of it only: so does one request."""

    def __init__(self, size: int, read: ReadBytes):
        self._read = read
        self._size = size
        self._start = max(size - TAIL, 0)
        self._tail = read(self._start, size - self._start)
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError("before the beginning of the file")
        self._position = origin + offset
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        left = max(self._size - self._position, 0)
        count = left if count is None or count < 0 else min(count, left)
        if count > MAX_HEADER:
            raise zipfile.BadZipFile
        if self._position >= self._start:
            begin = self._position - self._start
            data = self._tail[begin : begin + count]
        else:
            data = self._read(self._position, count)
        self._position += count
        return data


def _refusal(code: str, file: str, **values: Any) -> CheckpointError:
    return CheckpointError(Problem(code, {"file": file, **values}, file))


TORCH_ZIP = Format(
    "torch zip",
    (".bin", ".pt", ".pth", ".ckpt"),
    read_torch_zip,
    model="pytorch_model.bin",
    adapter="adapter_model.bin",
)

"""The header of a safetensors file: names, dtypes, shapes and places of its tensors, and nothing else.

Format: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes without gaps.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from checkpoints.dtypes import is_known, itemsize
from checkpoints.problems import CheckpointError, Problem

# As in the safetensors library: a longer header is an attack, not a model.
MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorHeader:
    """Where a tensor stands and what it is.

    Args:
        name: the tensor's
        dtype: safetensors' name, such as BF16
        shape: sizes by axis
        file: that holds it; empty for a tensor that is computed when it is read
        start: offset of its first byte in the file
        nbytes: its length in bytes
        rounds_to: of a tensor that is computed in float32, the dtype that its model stores it in
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    nbytes: int
    rounds_to: str = ""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> str:
        """What a result keeps it in unless it is told otherwise."""
        return self.rounds_to or self.dtype

    @property
    def stored_bytes(self) -> int:
        return self.elements * itemsize(self.rounds_to) if self.rounds_to else self.nbytes


def header_length(file: str, beginning: bytes, size: int) -> int:
    """Bytes up to the first tensor, from the first eight bytes of a file of `size` bytes.

    Raises:
        CheckpointError: no safetensors file begins so.
    """
    length = 8 + int.from_bytes(beginning[:8], "little")
    if len(beginning) < 8 or length > min(size, MAX_HEADER):
        raise damaged(file, f"its header would be {length} bytes long, in a file of {size}")
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
    try:
        entries = json.loads(header[8:])
        entries.pop("__metadata__", None)
        found = {
            name: TensorHeader(
                name,
                entry["dtype"],
                tuple(entry["shape"]),
                file,
                len(header) + entry["data_offsets"][0],
                entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise damaged(file, f"its header cannot be read ({type(error).__name__})") from error
    end = len(header)
    for tensor in sorted(found.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != end or tensor.nbytes < 0:
            raise damaged(file, f"the bytes of {tensor.name} do not follow those before it")
        if is_known(tensor.dtype) and tensor.nbytes != tensor.elements * itemsize(tensor.dtype):
            raise damaged(file, f"{tensor.name} has {tensor.nbytes} bytes for shape {list(tensor.shape)}")
        end += tensor.nbytes
    if end != size:
        raise damaged(file, f"it has {size} bytes where its header says {end}")
    return found


def damaged(file: str, how: str) -> CheckpointError:
    message = f"{file} is damaged: {how}."
    return CheckpointError(Problem("damaged-file", message, "Download or upload it again.", file))


def write_header(tensors: Iterable[TensorHeader]) -> bytes:
    """The header of a file that holds these tensors in this order, padded as safetensors' own writer pads it."""
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

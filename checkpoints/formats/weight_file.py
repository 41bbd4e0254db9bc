"""The tensors of one file of weights: safetensors, or the zip of `torch.save`."""

from __future__ import annotations

from checkpoints.formats.safetensors import TensorHeader, header_length, read_header
from checkpoints.formats.torch_zip import read_torch_zip
from checkpoints.repositories.repository import Repository, read_bytes

# One read of this size holds the header of nearly every shard.
HEADER_GUESS = 64 * 1024


def read_tensors(repository: Repository, file: str) -> dict[str, TensorHeader]:
    """The tensors of a file, by name, from its header alone.

    Raises:
        CheckpointError: the file is damaged, or a pickle of more than tensors.
    """
    size = repository.files[file]
    if not file.endswith(".safetensors"):
        return read_torch_zip(file, size, lambda *place: bytes(read_bytes(repository, file, *place)))
    beginning = read_bytes(repository, file, 0, min(HEADER_GUESS, size))
    length = header_length(file, bytes(beginning[:8]), size)
    if length > len(beginning):
        beginning += read_bytes(repository, file, len(beginning), length - len(beginning))
    return read_header(file, bytes(beginning[:length]), size)

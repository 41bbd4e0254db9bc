"""Where tensors come from: a folder, a model on the Hub read by ranges, or one of these under an adapter."""

from checkpoints.adapters.adapted import open_adapter, without_adapters
from checkpoints.aligned import AlignedCheckpoint, Alignment
from checkpoints.checkpoint import AppliedAdapter, Checkpoint, read_json
from checkpoints.formats.header import TensorHeader
from checkpoints.formats.safetensors import write_header
from checkpoints.located import LocatedCheckpoint, locate, open_located
from checkpoints.repositories.repository import Token
from checkpoints.stored import StoredCheckpoint, open_checkpoint
from checkpoints.tokenizer_files import tokenizer_files

__all__ = [
    "AlignedCheckpoint",
    "Alignment",
    "AppliedAdapter",
    "Checkpoint",
    "LocatedCheckpoint",
    "StoredCheckpoint",
    "TensorHeader",
    "Token",
    "locate",
    "open_adapter",
    "open_checkpoint",
    "open_located",
    "read_json",
    "tokenizer_files",
    "without_adapters",
    "write_header",
]

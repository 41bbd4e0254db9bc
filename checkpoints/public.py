"""What `from checkpoints import ...` offers."""

from checkpoints.adapters.adapted import open_adapter, without_adapters
from checkpoints.aligned import AlignedCheckpoint, Alignment
from checkpoints.checkpoint import AppliedAdapter, Checkpoint, read_json
from checkpoints.formats.header import TensorHeader
from checkpoints.formats.safetensors import write_header
from checkpoints.located import LocatedCheckpoint, locate, open_located
from checkpoints.opening import open_checkpoint
from checkpoints.repositories.repository import Token
from checkpoints.stored import StoredCheckpoint

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
    "without_adapters",
    "write_header",
]

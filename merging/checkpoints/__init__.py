"""Where tensors come from: a folder, a model on the Hub read by ranges, or one of these under an adapter."""

from merging.checkpoints.adapted import open_adapter
from merging.checkpoints.adapter import Adapter
from merging.checkpoints.aligned import AlignedCheckpoint, Alignment
from merging.checkpoints.checkpoint import Checkpoint, open_checkpoint
from merging.checkpoints.header import TensorHeader, write_header
from merging.checkpoints.repository import Token
from merging.checkpoints.tokenizer_files import tokenizer_files

__all__ = [
    "Adapter",
    "AlignedCheckpoint",
    "Alignment",
    "Checkpoint",
    "TensorHeader",
    "Token",
    "open_adapter",
    "open_checkpoint",
    "tokenizer_files",
    "write_header",
]

"""Where tensors come from: a folder, or a model on the Hub read by ranges."""

from merging.checkpoints.checkpoint import Checkpoint, open_checkpoint
from merging.checkpoints.header import TensorHeader, write_header
from merging.checkpoints.repository import Token

__all__ = ["Checkpoint", "TensorHeader", "Token", "open_checkpoint", "write_header"]

"""Quantized models as plain numbers on this machine's disk, for transformers, which cannot read their form here.

A copy looks like one more model in the Hub's cache: on a server it is counted and evicted as all others are. On a
personal machine it is deleted when the process ends.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import constants

from checkpoints import Checkpoint
from checkpoints.formats.safetensors import write_header
from checkpoints.quantized.dequantized import plain_config, quantization_settings
from evaluation.downloads import DOWNLOADS

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# What transformers needs for forms that it does not read by itself.
LIBRARIES = {
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "gptq": "gptqmodel",
}
# Bytes that are computed and written at a time.
PIECE = 64 * 1024 * 1024


def needs_plain_copy(config: Mapping[str, Any]) -> bool:
    """Whether a model with this config is quantized in a form whose library is not installed."""
    library = LIBRARIES.get(str(quantization_settings(config).get("quant_method")))
    return library is not None and importlib.util.find_spec(library) is None


def plain_copy(checkpoint: Checkpoint, small: Sequence[str]) -> Path:
    """A model as plain numbers, in float32 where it is quantized; returns the folder, which appears whole.

    Args:
        checkpoint: the model
        small: its files that are copied as they are

    Raises:
        EvaluationError: there is not enough room.
        CheckpointError: it cannot be read.
    """
    stays = DOWNLOADS.is_limited
    made_by = "" if stays else f" {os.getpid()}"
    digest = hashlib.sha256(f"{checkpoint.name} {checkpoint.version}{made_by}".encode()).hexdigest()[:40]
    repo = f"alloy/plain-{digest[:12]}"
    home = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    folder = home / "snapshots" / digest
    header = write_header(checkpoint.tensors.values())
    size = len(header) + sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    with DOWNLOADS.room_for(repo, digest, {WEIGHTS: size}):
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not stays:
            atexit.register(shutil.rmtree, home, ignore_errors=True)
        with TemporaryDirectory(dir=home) as partial:
            whole = Path(partial) / "model"
            whole.mkdir()
            for file in small:
                (whole / file).write_bytes(checkpoint.read_file(file))
            (whole / CONFIG).write_text(json.dumps(_config(checkpoint)), "utf-8")
            _write(checkpoint, header, whole / WEIGHTS)
            if not folder.is_dir():
                whole.rename(folder)
    return folder


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of plain numbers; they are widened to the widest that there are."""
    config = plain_config(checkpoint.config)
    config.pop("torch_dtype", None)
    is_wide = any(tensor.dtype == "F32" for tensor in checkpoint.tensors.values())
    return {**config, **({"dtype": "float32"} if is_wide else {})}


def _write(checkpoint: Checkpoint, header: bytes, file: Path) -> None:
    with file.open("wb") as out:
        out.write(header)
        for name, tensor in checkpoint.tensors.items():
            for start in range(0, tensor.nbytes, PIECE):
                piece = bytearray(min(PIECE, tensor.nbytes - start))
                checkpoint.read_into(name, start, memoryview(piece))
                out.write(piece)

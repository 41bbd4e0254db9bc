"""Element types: the order in which safetensors writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from checkpoints.dtypes import _TYPES, rank_in_file, torch_name
from checkpoints.formats import read_tensors
from checkpoints.repositories.folder import Folder


def test_dtypes_are_sorted_as_safetensors_sorts_them(tmp_path: Path) -> None:
    tensors = {dtype: torch.zeros(8).to(getattr(torch, torch_name(dtype))) for dtype in sorted(_TYPES)}
    save_file(tensors, tmp_path / "x.safetensors")

    written = read_tensors(Folder(tmp_path), "x.safetensors").values()

    assert [header.dtype for header in sorted(written, key=lambda header: header.start)] == sorted(
        _TYPES, key=rank_in_file
    )

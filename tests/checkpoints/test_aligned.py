"""A checkpoint whose rows come in another order, and partly from other models."""

from __future__ import annotations

from pathlib import Path

from checkpoints.aligned import AlignedCheckpoint, Alignment, Rows
from checkpoints.repositories.folder import Folder
from checkpoints.stored import read_headers
from tests.tiny import tiny_llama

EMBEDDING = "model.embed_tokens.weight"


class Remote(Folder):
    """A folder that claims to be read over a network."""

    read_by = frozenset({"HTTP"})

    def is_local(self, file: str) -> bool:
        return False


def test_models_that_give_rows_count_for_how_it_is_read(tmp_path: Path) -> None:
    own = read_headers(Folder(tiny_llama(tmp_path / "own", 0)))
    other = read_headers(Remote(tiny_llama(tmp_path / "other", 1)))
    rows = own.tensors[EMBEDDING].shape[0]

    def aligned(*runs: Rows) -> AlignedCheckpoint:
        return AlignedCheckpoint(own, Alignment(runs, 0, {EMBEDDING: (EMBEDDING, EMBEDDING)}), (own, other))

    alone = aligned(Rows(rows, ((0, 0),)))
    mixed = aligned(Rows(rows, ((0, 0),)), Rows(1, ((1, 0),)))

    assert (alone.read_by, alone.is_remote) == ({"folder"}, False)
    assert (mixed.read_by, mixed.is_remote) == ({"folder", "HTTP"}, True)

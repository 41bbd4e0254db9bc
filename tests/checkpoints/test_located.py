"""An open model as JSON, and opened from it: the same bytes, and no question to the Hub that was answered before."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints import Checkpoint, LocatedCheckpoint, locate, open_adapter, open_checkpoint, open_located
from checkpoints.problems import CheckpointError
from tests.hub import Hub
from tests.merging.test_adapters import adapter

EMBEDDING = "model.embed_tokens.weight"
PROJECTION = "model.layers.1.self_attn.q_proj.weight"


def content(checkpoint: Checkpoint, name: str) -> bytes:
    buffer = bytearray(checkpoint.tensors[name].nbytes)
    checkpoint.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


def reopened(checkpoint: Checkpoint, tensors: list[str], token: str | None = None) -> Checkpoint:
    return open_located(LocatedCheckpoint.from_json(locate(checkpoint, tensors).to_json()), token)


@pytest.mark.parametrize("place", ["", "/deep/folder"])
def test_a_model_on_the_hub_is_opened_without_a_question(
    place: str, folder: Path, hub: Hub, alice: str
) -> None:
    for path in (folder / "b").iterdir():
        hub.put("alice/parts", {f"deep/folder/{path.name}": path}, private=True)
    name = f"alice/parts{place}" if place else "alice/b"
    found = open_checkpoint(name, token=alice)
    expected = content(found, PROJECTION)
    hub.log.clear()

    again = reopened(found, [PROJECTION], alice)

    assert len(hub.log) == 0
    assert (again.name, again.version, again.config) == (found.name, found.version, found.config)
    assert again.tensors == {PROJECTION: found.tensors[PROJECTION]}
    assert again.files == {again.tensors[PROJECTION].file: found.files[again.tensors[PROJECTION].file]}
    assert content(again, PROJECTION) == expected
    assert hub.log.find("GET", "/api/") == []


def test_a_model_under_adapters(folder: Path, hub: Hub, alice: str, tmp_path: Path) -> None:
    hub.put("alice/lora", adapter(folder / "base", tmp_path / "lora", 1), private=True)
    found: Checkpoint = open_checkpoint("alice/base", token=alice)
    for scale in (0.5, 2.0):
        found = open_adapter(found, "alice/lora", None, scale, token=alice)
    expected = {name: content(found, name) for name in (EMBEDDING, PROJECTION)}
    hub.log.clear()

    again = reopened(found, [PROJECTION], alice)

    assert len(hub.log) == 0
    assert [part.scale for part in again.adapters] == [0.5, 2.0]
    assert {name: content(again, name) for name in expected} == expected
    assert hub.log.find("GET", "/api/") == []


def test_a_folder_that_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(folder / "a")
    found = open_checkpoint(str(tmp_path / "model"))
    assert content(reopened(found, [EMBEDDING]), EMBEDDING) == content(found, EMBEDDING)

    (tmp_path / "model").unlink()
    (tmp_path / "model").symlink_to(folder / "base")

    with pytest.raises(CheckpointError, match="has changed since the plan was made"):
        reopened(found, [EMBEDDING])

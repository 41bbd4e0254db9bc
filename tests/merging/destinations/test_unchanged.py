"""Shards that are whole files of a parent: the Hub copies them, and nobody reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from merging import Plan, make_plan, read_recipe, run_plan
from tests.hub import Hub
from tests.merges import merged, weight_files, weights

OUT = "hf://alice/out"
SIZE = 100_000  # bytes a shard, as the model `b` has them


def recipe(place: Path | str, scale: object = 1.0) -> str:
    """Everything from one model, in the dtype that it has."""
    models = [{"model": f"{place}/cut", "parameters": {"scale": scale}}]
    return yaml.safe_dump({"merge_method": "passthrough", "models": models})


@pytest.fixture
def cut(folder: Path, tmp_path: Path, hub: Hub, alice: str) -> Path:
    """A folder with a model, also on the Hub, that is cut into files as our shards are; returns the outer folder."""
    merged(
        yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": f"{folder}/a"}]}),
        tmp_path / "cut",
        SIZE,
    )
    hub.put("alice/cut", tmp_path / "cut", private=True)
    return tmp_path


def planned(text: str, token: str, **options: Any) -> Plan:
    plan = make_plan(read_recipe(text), OUT, token=token, shard_size=SIZE, **options)
    assert plan.problems == ()
    return plan


def test_they_are_copied_without_reading_or_uploading(hub: Hub, alice: str, cut: Path) -> None:
    plan = planned(recipe("alice"), alice)
    assert all(shard.copy_of for shard in plan.shards)
    assert Plan.from_json(plan.to_json()) == plan
    hub.log.clear()

    result = run_plan(plan, OUT, token=alice)

    assert result.verified
    right = weight_files(cut / "cut")
    assert weights(hub, "alice/out") == right
    assert not hub.log.find("PUT")
    # Headers are read, once to open the model and once to look at the result.
    assert hub.log.bytes_out("^/lfs/") < 2 * len(right) * 65_536 + 1000
    assert [*hub.repo("alice/out").refs] == ["main"]


def test_only_the_changed_ones_are_made(hub: Hub, alice: str, cut: Path, tmp_path: Path) -> None:
    scale = [{"filter": "layers.3.mlp", "value": 0.5}, {"value": 1.0}]
    merged(recipe(cut, scale), tmp_path / "right", SIZE)
    plan = planned(recipe("alice", scale), alice)
    changed = [shard.filename for shard in plan.shards if not shard.copy_of]
    assert 0 < len(changed) < len(plan.shards)
    hub.log.clear()

    run_plan(plan, OUT, token=alice)

    for name, data in weights(hub, "alice/out").items():
        assert data == (tmp_path / "right" / name).read_bytes()
    assert len(hub.log.find("PUT", "^/upload/")) == len(changed)


def test_what_the_hub_cannot_copy_is_uploaded(hub: Hub, alice: str, cut: Path) -> None:
    refused = hub.fault("POST", "/lfs-files/duplicate", status=400, times=None)
    plan = planned(recipe("alice"), alice)

    assert run_plan(plan, OUT, token=alice).verified

    assert refused.hits
    assert len(hub.log.find("PUT", "^/upload/")) == len(plan.shards)
    right = weight_files(cut / "cut")
    assert weights(hub, "alice/out") == right


def test_the_same_tensors_behind_another_header_are_no_copy(hub: Hub, alice: str, cut: Path) -> None:
    """The metadata may differ in no more than a letter, and so the size and every offset are the same."""
    for path in (cut / "cut").glob("*.safetensors"):
        save_file(load_file(path), path, metadata={"format": "tp"})
    hub.put("alice/cut", cut / "cut")

    assert not any(shard.copy_of for shard in planned(recipe("alice"), alice).shards)


def test_a_folder_is_no_parent_to_copy_from(cut: Path, alice: str) -> None:
    assert not any(shard.copy_of for shard in planned(recipe(cut), alice).shards)

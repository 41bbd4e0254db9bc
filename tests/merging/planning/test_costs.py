"""Costs are what each room says that it will hold, added up."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from bench.models import Size
from bench.scale import from_hub, hollow
from checkpoints.names import BUCKET_SCHEME, STORE_SCHEMES
from merging import Plan, make_plan, read_recipe
from merging.destinations import DESTINATIONS, HUB_SCHEME, open_destination
from merging.destinations.hub_sink import BUFFERS
from merging.destinations.memory import MemoryDestination
from merging.destinations.xet import HELD
from merging.engine import prefetch, workspace
from merging.planning.costs import HUB_CLIENT_BYTES, PROCESS_BYTES, peak_memory
from tests import ROOT

# Where a plan of each scheme goes.
PLACES = {
    HUB_SCHEME: "hf://alice/out",
    BUCKET_SCHEME: "hf://buckets/alice/work/out",
    "": "/nowhere/out",
    **{scheme: f"{scheme}bucket/out" for scheme in STORE_SCHEMES},
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A merge of two models of 3 GB each, into several files."""
    folder = tmp_path_factory.mktemp("models")
    names = [hollow(Size(4096, 14336, 6, 32, 8, 32_000), folder / name) for name in "ab"]
    models = [{"model": str(name), "parameters": {"weight": 0.5}} for name in names]
    made = make_plan(read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models})))
    assert len(made.shards) > 1
    return made


@pytest.mark.parametrize("scheme", DESTINATIONS)
@pytest.mark.parametrize("streams", [False, True])
def test_what_the_destination_holds_is_in_the_sum(
    scheme: str, streams: bool, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoints.object_store.connect", lambda _: None)  # nothing is asked of it
    plan = replace(from_hub(plan), streams=streams)
    held = open_destination(PLACES[scheme]).held(plan)

    assert peak_memory(plan, held) == peak_memory(plan) + held


def test_a_plan_is_made_with_what_its_destination_holds(plan: Plan, hub: object) -> None:
    recipe = read_recipe(plan.recipe)
    sizes = sorted(shard.bytes for shard in plan.shards)
    assert BUFFERS == 2

    to_hub, to_folder, streamed = (
        make_plan(recipe, to, token=False, memory=memory)
        for to, memory in ((PLACES[HUB_SCHEME], 10**12), (PLACES[""], 10**12), (PLACES[HUB_SCHEME], 0))
    )

    more = to_hub.peak_memory_bytes - to_folder.peak_memory_bytes
    assert more == sum(sizes[-2:]) + HUB_CLIENT_BYTES
    if streamed.streams:  # there is no hf_xet everywhere
        assert streamed.peak_memory_bytes - to_folder.peak_memory_bytes == HELD + HUB_CLIENT_BYTES
    assert MemoryDestination().held(plan) == 0


def test_the_rooms_of_the_engine_are_in_the_sum(plan: Plan) -> None:
    remote = from_hub(plan)

    assert peak_memory(plan, workers=3) == PROCESS_BYTES + workspace.held(plan, 3)
    expected = PROCESS_BYTES + HUB_CLIENT_BYTES + workspace.held(remote, 3) + prefetch.held(remote)
    assert peak_memory(remote, workers=3) == expected
    assert workspace.held(plan, 3) == 3 * workspace.held(plan, 1) > 0
    assert prefetch.held(remote) >= prefetch.BUDGET > prefetch.held(plan) == 0


def test_costs_are_known_without_torch() -> None:
    code = (
        "import sys, merging.planning.costs; assert 'torch' not in sys.modules, 'torch'; print(*sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    # Neither the Hub's client nor Xet is needed to add up.
    assert not {"huggingface_hub", "merging.destinations.hub", "merging.destinations.xet"} & set(
        done.stdout.split()
    )

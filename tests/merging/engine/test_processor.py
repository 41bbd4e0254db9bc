"""Files of one model are computed by one kind of processor."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from merging import DestinationError, MergeError, Plan, make_plan, read_recipe, run_plan
from merging.destinations.receipt import ANY
from merging.engine.processor import OneKind, processor_kind, processor_of
from tests import ROOT
from tests.hub import Hub
from tests.merges import merged, ties, weight_files, weights
from tests.merging.engine.conformance import Recording

OUT = "hf://alice/out"
SIZE = 60_000


def test_the_first_file_decides() -> None:
    kind = OneKind()
    for processor in (ANY, "x86_64-avx512", ANY, "x86_64-avx512"):
        kind.check(processor)

    with pytest.raises(MergeError, match=r"x86_64-avx512.*x86_64-avx2") as caught:
        kind.check("x86_64-avx2")
    assert caught.value.problems[0].code == "other-processor"
    with pytest.raises(MergeError, match="ATEN_CPU_CAPABILITY=avx512"):
        kind.check("x86_64-default")
    with pytest.raises(MergeError) as caught:
        kind.check("aarch64-default")
    assert "ATEN_CPU_CAPABILITY" not in str(caught.value)


def test_what_is_only_copied_is_the_same_everywhere(folder: Path) -> None:
    copied = make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {folder}/a}}]"))
    computed = make_plan(read_recipe(ties(folder)))

    assert processor_of(copied, copied.shards[0], "cpu") == ANY
    assert processor_of(computed, computed.shards[0], "cpu") == processor_kind("cpu")
    under = (replace(copied.models[0], made_by=computed),)
    assert processor_of(replace(copied, models=under), copied.shards[0], "cpu") != ANY


def run_elsewhere(recipe: str, place: Path, token: str, capability: str) -> subprocess.CompletedProcess[str]:
    """A merge on a machine whose processor has other instructions."""
    (place / "recipe.yaml").write_text(recipe)
    command = ["run", str(place / "recipe.yaml"), "--to", OUT, "--shard-size", str(SIZE)]
    env = {**os.environ, "HF_TOKEN": token, "ATEN_CPU_CAPABILITY": capability}
    return subprocess.run(
        [sys.executable, "-m", "merging", *command], cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.fixture
def begun(hub: Hub, alice: str) -> Plan:
    """A merge that failed with some files in the journal."""
    plan = make_plan(read_recipe(ties("alice")), OUT, token=alice, shard_size=SIZE)
    hub.fault("PUT", "^/upload/", status=403, skip=3, times=None)
    with pytest.raises(DestinationError, match="continues from the last finished shard"):
        run_plan(plan, OUT, token=alice)
    hub.clear_faults()
    return plan


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch uses the plainest instructions here"
)
def test_another_kind_of_processor_does_not_continue_a_merge(
    hub: Hub, alice: str, begun: Plan, folder: Path, tmp_path: Path
) -> None:
    branches = set(hub.repo("alice/out").refs)
    hub.log.clear()

    refused = run_elsewhere(ties("alice"), tmp_path, alice, "default")

    assert refused.returncode == 1
    assert f"computed on {processor_kind('cpu')}" in refused.stderr
    assert not hub.log.find("PUT", "^/upload/")
    assert set(hub.repo("alice/out").refs) == branches  # the files stay, for a processor of their kind
    merged(ties(folder), tmp_path / "right", SIZE)
    assert run_plan(begun, OUT, token=alice).verified
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")


def test_an_engine_may_not_mix_them_either(folder: Path, tmp_path: Path) -> None:
    from merging.engine.threads import Threads

    class Mixed(Recording):
        def run(self, merge: object, shards: object) -> object:
            for number, receipt in enumerate(super().run(merge, shards)):
                yield replace(receipt, processor=f"machine-{number // 3}")

    plan = make_plan(read_recipe(ties(folder)), shard_size=SIZE)
    with pytest.raises(MergeError, match=r"computed on .* and this is machine-0"):
        run_plan(plan, str(tmp_path / "out"), on=Mixed(Threads()))
    assert not any(tmp_path.iterdir())


def test_receipts_of_a_merge_name_it(folder: Path, tmp_path: Path) -> None:
    from merging.engine.threads import Threads

    plan, recording = make_plan(read_recipe(ties(folder)), shard_size=SIZE), Recording(Threads())

    run_plan(plan, str(tmp_path / "out"), on=recording)

    assert {receipt.processor for receipt in recording.receipts} == {processor_kind("cpu")}

"""A merge of three 405 B models on paper: planned from headers, its schedule walked, its memory bounded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.models import Size
from bench.scale import SIZES, from_hub, hollow, schedule
from checkpoints import open_checkpoint
from merging import make_plan, read_recipe
from merging.destinations import hub_sink
from merging.engine import prefetch
from merging.planning.costs import peak_memory
from tests import ROOT

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("huge")
    for name in NAMES:
        hollow(SIZES["405b"], folder / name)
    return folder


@pytest.mark.parametrize("method", ["linear", "model_stock"])
def test_three_times_405_billion(method: str, folder: Path) -> None:
    recipe = {"merge_method": method, "models": [{"model": str(folder / name)} for name in NAMES]}
    if method == "linear":
        recipe["parameters"] = {"weight": 1.0}
    else:
        recipe["base_model"] = str(folder / "a")
        recipe["models"] = recipe["models"][1:]
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)))
    models = [open_checkpoint(str(folder / name)) for name in NAMES]

    walked = schedule(plan, models)
    for model in models:
        model.close()

    assert plan.problems == ()
    assert plan.bytes_out == 2 * 405_853_388_800
    once = plan.bytes_out * 3
    assert once <= walked.nbytes <= 2 * once  # what is too large to be held is read in both passes
    assert (walked.nbytes == once) == (method == "linear")
    assert walked.held <= prefetch.held(from_hub(plan))
    assert sum(path.stat().st_blocks for path in folder.rglob("*.safetensors")) * 512 < 10_000_000
    # To a folder no tensor is held whole; to the Hub two shards are, and one tensor here is larger than a shard.
    assert peak_memory(plan) < 1_000_000_000
    shards = sorted(shard.bytes for shard in plan.shards)
    assert peak_memory(from_hub(plan), hub_sink.held(plan)) < sum(shards[-2:]) + 1_500_000_000
    # Through Xet, no shard is.
    streaming = replace(from_hub(plan), streams=True)
    assert peak_memory(streaming, hub_sink.held(streaming)) < 1_500_000_000


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from merging.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def test_models_larger_than_the_memory_of_the_process(tmp_path: Path) -> None:
    """Two models of 3 GB become one in a process that may have 2.5 GB in all, libraries and stacks included."""
    size = Size(4096, 14336, 6, 32, 8, 32_000)
    folders = [hollow(size, tmp_path / name) for name in ("a", "b")]
    inputs = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    models = [{"model": str(folder), "parameters": {"weight": 0.5}} for folder in folders]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    command = ["run", str(recipe), "--to", str(tmp_path / "out"), "--shard-size", "500MB"]
    limit = 2_500_000_000
    assert inputs > 2 * limit

    subprocess.run([sys.executable, "-c", LIMITED, str(limit), *command], cwd=ROOT, check=True)

    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert written > limit
    shutil.rmtree(tmp_path / "out")

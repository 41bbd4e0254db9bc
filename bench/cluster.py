"""What it costs to hand shards out: the same merge by one machine and by two nodes of Ray, in turn, Hub to Hub.

python -m bench.cluster [--size small|1b] [--shard-mb 30] [--repeats 5] [METHOD ...]

The one machine has two threads, each node one. All run on this computer, and the Hub is a process of its own. Nodes are
warm: the first merge, in which they import torch, does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bench.__main__ import recipe
from bench.models import NAMES, SIZES, built
from tests import ROOT
from tests.hub import Hub

OUT = "hf://bench/out"


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.cluster", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--shard-mb", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)  # the process that merges
    parser.add_argument("methods", nargs="*", metavar="METHOD", default=["linear", "ties"])
    options = parser.parse_args()
    if options.beside:
        for method in options.methods:
            compare(method, options.size, options.shard_mb, options.repeats)
        return
    folder = built(options.size)
    with tempfile.TemporaryDirectory(prefix="alloy-bench-") as place, Hub(Path(place) / "hub") as hub:
        env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": hub.add_user("bench"),
            "HF_HOME": f"{place}/home",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        for name in NAMES:
            hub.put(f"bench/{name}", folder / name)
        subprocess.run(
            [sys.executable, "-m", "bench.cluster", "--beside", *sys.argv[1:]],
            env={**os.environ, **env},
            check=True,
        )


def compare(method: str, size: str, shard_mb: int, repeats: int) -> None:
    """Print the medians of a method."""
    import ray
    from huggingface_hub import HfApi

    from merging import RayEngine, make_plan, read_recipe, run_plan
    from tests.merging.engine.test_ray import Nodes

    if not ray.is_initialized():
        ray.init(address=Nodes().cluster.address, log_to_driver=False, logging_level="error")
    text = yaml.safe_dump(recipe(method, Path("bench"), SIZES[size].num_hidden_layers))

    def merge(on: RayEngine | None) -> float:
        plan = make_plan(read_recipe(text), OUT, shard_size=shard_mb * 1_000_000)
        began = time.perf_counter()
        run_plan(plan, OUT, workers=2 if on is None else 1, on=on)
        seconds = time.perf_counter() - began
        HfApi().delete_repo(OUT.removeprefix("hf://"))  # else the next one would find the files there
        return seconds

    merge(RayEngine())
    turns = [(merge(None), merge(RayEngine())) for _ in range(repeats)]
    alone, handed = (statistics.median(each) for each in zip(*turns, strict=True))
    print(
        f"{method}, {size}, files of {shard_mb} MB: one machine {alone:.1f} s, two nodes {handed:.1f} s, "
        f"{handed / alone - 1:+.0%}; by pairs {', '.join(f'{two / one - 1:+.0%}' for one, two in turns)}",
        flush=True,
    )


if __name__ == "__main__":
    main()

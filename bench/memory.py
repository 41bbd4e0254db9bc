"""Memory estimated by the plan against memory seen, and its course over time, of whole processes.

python -m bench.memory [--size small|1b|3b] [--shard-size 500MB] [--ways folder ...] [METHOD ...]

Five ways: from folder to folder, from a Hub to a Hub by LFS and through Xet, to a Xet that answers after PAUSE seconds,
where what waits to be sent is most of it, and from a Hub that sends SLOW bytes a second over each connection to a
folder, where what is read ahead is. At the end stand the ratios alone, as the README shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import yaml

from bench.__main__ import recipe
from bench.measure import Cost, measured
from bench.models import NAMES, SIZES, built
from tests.hub import Hub
from tests.hub.xet import Xet

METHODS = ("linear", "slerp", "ties", "model_stock", "dare_ties")
WAYS = ("folder", "Hub", "Xet", "slow Xet", "slow Hub")
SLOW, PAUSE = 10_000_000, 4.0
# The command line on a machine that has no memory to spare, for which a plan chooses Xet.
BY_XET = """
import sys
from merging.planning import make
from merging.__main__ import main
make.free_memory = lambda: 0
sys.exit(main(sys.argv[1:]))
"""
LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def drawn(cost: Cost) -> str:
    """The curve of a cost, WIDTH characters of its whole time: the highest stands for the peak."""
    count = max(len(cost.curve), 1)
    cuts = [count * i // WIDTH for i in range(WIDTH + 1)]
    parts = [cost.curve[begin : max(end, begin + 1)] for begin, end in pairwise(cuts)]
    return "".join(
        LEVELS[max(part, default=0) * (len(LEVELS) - 1) // max(cost.anonymous, 1)] for part in parts
    )


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.memory", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--shard-size", default="500MB")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("methods", nargs="*", metavar="METHOD", default=METHODS)
    options = parser.parse_args()
    folder = built(options.size)
    with tempfile.TemporaryDirectory(prefix="alloy-bench-") as place, Hub(Path(place) / "hub") as hub:
        work = Path(place)
        env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": hub.add_user("bench"),
            "HF_HOME": str(work / "home"),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        for name in NAMES if {*options.ways} != {"folder"} else ():
            hub.put(f"bench/{name}", folder / name)
        ratios: list[list[str]] = []
        for method in options.methods:
            ratios.append([])
            for way in options.ways:
                source = folder if way == "folder" else Path("bench")
                text = yaml.safe_dump(recipe(method, source, SIZES[options.size].num_hidden_layers))
                (work / "recipe.yaml").write_text(text)
                to = "hf://bench/out" if way in ("Hub", "Xet", "slow Xet") else str(work / "out")
                command = [sys.executable, *(("-c", BY_XET) if "Xet" in way else ("-m", "merging"))]
                rest = [
                    str(work / "recipe.yaml"),
                    "--to",
                    to,
                    "--overwrite",
                    "--shard-size",
                    options.shard_size,
                ]
                if way == "slow Hub":
                    hub.fault("GET", "^/lfs/", rate=SLOW, times=None)
                if way == "slow Xet":
                    hub.fault("POST", "/v1/xorbs/", delay=PAUSE, times=None)
                said = subprocess.run(
                    [*command, "plan", *rest, "--json"],
                    env={**os.environ, **env},
                    capture_output=True,
                    check=True,
                )
                estimated = json.loads(said.stdout)["peak_memory_bytes"]
                cost = measured([*command, "run", *rest], env)
                hub.clear_faults()
                ratios[-1].append(f"{estimated / cost.anonymous:.2f}")
                print(
                    f"{method:12} {way:8} {estimated / 1e6:6.0f} MB estimated {cost.anonymous / 1e6:6.0f} MB seen "
                    f"{ratios[-1][-1]}  {drawn(cost)} {cost.wall:.1f} s, {cost.cpu:.1f} CPU s",
                    flush=True,
                )
                if "bench/out" in hub.repos:
                    hub.store.delete("bench/out")
                hub.xet = Xet()  # one that has nothing: what it has would not be sent again
        print(
            f"\n| memory estimated / seen | {' | '.join(options.ways)} |\n|---|{'--:|' * len(options.ways)}"
        )
        for method, row in zip(options.methods, ratios, strict=True):
            print(f"| `{method}` | {' | '.join(row)} |")


if __name__ == "__main__":
    main()

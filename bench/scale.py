"""What a merge of any size takes, from headers alone: models without weights, planned, and their schedule walked.

python -m bench.scale [8b] [70b] [405b]

The files are as long as real ones and hold a header and a hole, which takes no room on the disk. The plan is the real
one; the real prefetcher runs the schedule, with reads that return at once. Two more tables simulate the same plans on
several machines, and many merges of the same parents on one.
"""

from __future__ import annotations

import heapq
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from bench.models import Size
from checkpoints import Checkpoint, TensorHeader, open_checkpoint
from merging import Plan, make_plan, read_recipe
from merging.destinations import hub_sink
from merging.destinations.hub_limits import FREE, OTHER_REQUESTS, REQUESTS_A_FILE, requests
from merging.engine import prefetch
from merging.engine.cluster import RECEIPTS, SHARDS_A_CALL
from merging.engine.prefetch import Origin, Prefetch, is_prefetched, rereads, windows
from merging.engine.several import SHARED
from merging.methods import METHODS
from merging.plan import Input
from merging.planning.costs import PROCESS_BYTES, peak_memory

SIZES = {
    "8b": Size(4096, 14336, 32, 32, 8, 128_256),  # the shapes of Llama 3.1
    "70b": Size(8192, 28672, 80, 64, 8, 128_256),
    "405b": Size(16384, 53248, 126, 128, 8, 128_256),
}
SHARD_BYTES = 5_000_000_000
MACHINES = (1, 8, 32)
MANY, TOGETHER = 200, (1, 4, 10)
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


@dataclass(frozen=True)
class Spread:
    """How a merge goes that several machines share.

    Args:
        seconds: until the last file has arrived, by the network alone
        resolved: requests for the address of a file of a model
        requests: to the Hub's API
        memory: bytes of the largest task, by LFS
    """

    seconds: float
    resolved: int
    requests: int
    memory: int


def spread(plan: Plan, models: list[Checkpoint], machines: int, speed: float) -> Spread:
    """Hand the shards of a plan out as `ClusterEngine` does: each machine takes the next task when it has finished one.

    Args:
        speed: bytes a second of each machine, in either direction
    """
    size = max(1, min(SHARDS_A_CALL, math.ceil(len(plan.shards) / machines)))
    groups = [plan.shards[first : first + size] for first in range(0, len(plan.shards), size)]
    free = [0.0] * machines  # when each is, as a heap
    resolved = memory = 0
    for group in groups:
        found = {(i.model, i.tensor) for shard in group for tensor in shard.tensors for i in tensor.inputs}
        headers = [(model, models[model].tensors[name]) for model, name in found]
        read, written = sum(header.nbytes for _, header in headers), sum(shard.bytes for shard in group)
        # Reading and sending go on beside each other, but the last file is sent when it is full.
        seconds = max(read + group[-1].bytes, written) / speed
        heapq.heapreplace(free, free[0] + seconds)
        resolved += len({(model, header.file) for model, header in headers})
        part = plan.cut(group)
        memory = max(memory, peak_memory(part, hub_sink.held(part)))
    commits = math.ceil(len(plan.shards) / RECEIPTS)
    asked = (REQUESTS_A_FILE - 1) * len(plan.shards) + commits + OTHER_REQUESTS
    return Spread(max(free), resolved, asked, memory)


def windows_of(count: int) -> int:
    """How many windows of the Hub's limit the requests of a free account fill."""
    return math.ceil(count / FREE.requests)


def spread_rows(name: str) -> Iterator[str]:
    """Lines of a table, in Markdown: one merge on more and more machines."""
    with planned(name) as (plan, models):
        remote = from_hub(plan)
        yield (
            f"| 3 x {name.upper()}, {len(plan.shards)} files | at 1 Gbit/s each | at 5 Gbit/s each | resolvers | API "
            "| windows of a free account | memory of a task |"
        )
        yield "|---|" + "--:|" * 6
        for machines in MACHINES:
            slow, fast = (spread(remote, models, machines, speed / 8) for speed in (1e9, 5e9))
            yield (
                f"| {machines} machine{'s' if machines > 1 else ''} | {slow.seconds / 60:.0f} min "
                f"| {fast.seconds / 60:.0f} min | {slow.resolved:,} | {slow.requests:,} "
                f"| {windows_of(slow.requests)} | {slow.memory / 1e9:.1f} GB |"
            )


def many_rows(name: str) -> Iterator[str]:
    """Lines of a table, in Markdown: many merges of the same parents on one machine, some at a time."""
    with planned(name) as (plan, _):
        remote = from_hub(plan)
        own = peak_memory(remote, hub_sink.held(remote))
        yield (
            f"| {MANY} merges of 3 x {name.upper()} | read | written | requests | windows of a free account "
            "| at 100 MB/s | memory |"
        )
        yield "|---|" + "--:|" * 6
        for together in TOGETHER:
            turns = MANY // together
            read, written = turns * plan.bytes_in, MANY * plan.bytes_out
            memory = own + (together - 1) * (own - PROCESS_BYTES) + (SHARED if together > 1 else 0)
            asked = MANY * requests(plan)
            hours = max(read, written) / BANDWIDTH / 3600
            yield (
                f"| {together} at a time | {read / 1e12:.1f} TB | {written / 1e12:.1f} TB | {asked:,} "
                f"| {windows_of(asked)} | {hours:.1f} h | {memory / 1e9:.1f} GB |"
            )


@contextmanager
def planned(name: str) -> Iterator[tuple[Plan, list[Checkpoint]]]:
    """The plan of a linear merge of three models of a size, and the models."""
    with tempfile.TemporaryDirectory() as place:
        folders = [hollow(SIZES[name], Path(place) / model) for model in ("a", "b", "c")]
        models = [{"model": str(folder), "parameters": {"weight": 1.0}} for folder in folders]
        plan = make_plan(read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models})))
        yield plan, [open_checkpoint(str(folder)) for folder in folders]


def rows(names: list[str]) -> Iterator[str]:
    """Lines of the table, in Markdown."""
    columns = (
        "files",
        "plan",
        "read",
        "written",
        "requests",
        "prefetched",
        "memory, LFS",
        "Xet",
        "at 100 MB/s",
    )
    yield "| linear, Hub to Hub | " + " | ".join(columns) + " |"
    yield "|---|" + "--:|" * len(columns)
    for name in names:
        began = time.perf_counter()
        with planned(name) as (plan, checkpoints):
            seconds = time.perf_counter() - began
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
    sizes = sys.argv[1:] or list(SIZES)
    for lines in (rows(sizes), *map(spread_rows, sizes[-1:]), *map(many_rows, sizes[:1])):
        for line in lines:
            print(line, flush=True)
        print()

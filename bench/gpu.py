"""What a GPU is worth: every method, chat, perplexity and a search step, on a processor and on a GPU, in one run.

python -m bench.gpu [--device cuda|cpu] [--size 1b|small|tiny] [--minutes 8] [--only methods ...] [METHOD ...]

With `--device cpu` the same code runs where there is none, on both sides; its figures mean nothing then. When the
minutes are over, what is left is named and not measured. Needs no network.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open

from bench.__main__ import recipe
from bench.models import SIZES, built
from merging import make_plan, read_recipe, run_plan
from merging.methods import METHODS

TOKENS = {"cpu": 300, "cuda": 20_000}  # of the text whose perplexity is measured
NEW_TOKENS = {"cpu": 16, "cuda": 256}  # of an answer
COPIED = {"cpu": 1 << 20, "cuda": 1 << 28}  # numbers of the tensor that is copied
REPEATS = 3


@dataclass
class Bench:
    """What is to be measured, and until when.

    Args:
        device: "cuda" or "cpu"
        size: of the models that are merged, one of SIZES
        methods: that merge them
        minutes: after which nothing begins
    """

    device: str
    size: str
    methods: Sequence[str]
    minutes: float
    began: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.began > 60 * self.minutes

    def seconds(self, work: Callable[[], object]) -> float:
        """How long something takes, until the device has done it."""
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> str:
        """The most memory of the device that was taken since the last call."""
        if self.device == "cpu":
            return ""
        found = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return f"{found / 1e9:.2f} GB"


def merged(bench: Bench, path: Path, device: str, out: Path) -> float:
    """Seconds of a merge to a folder."""
    plan = make_plan(read_recipe(path.read_text()), str(out), overwrite=True)
    return bench.seconds(lambda: run_plan(plan, str(out), overwrite=True, device=device))


def farthest(one: Path, other: Path) -> float:
    """The largest difference between two numbers of two results; 0 where all bits are equal."""
    largest = 0.0
    for file in sorted(one.glob("*.safetensors")):
        with safe_open(file, "pt") as left, safe_open(other / file.name, "pt") as right:
            for name in left.keys():  # noqa: SIM118 (no mapping)
                pair = left.get_tensor(name), right.get_tensor(name)
                if not torch.equal(*pair):
                    largest = max(largest, float((pair[0].float() - pair[1].float()).abs().max()))
    return largest


def each_method(bench: Bench) -> Iterator[str]:
    """Each method, on either processor, and how far the results are apart."""
    yield "| method | CPU | device | CPU / device | largest difference | memory of the device |"
    yield "|---|--:|--:|--:|--:|--:|"
    folder, layers = built(bench.size), SIZES[bench.size].num_hidden_layers
    with tempfile.TemporaryDirectory(prefix="alloy-bench-") as place:
        work = Path(place)
        for method in bench.methods:
            if bench.is_over:
                yield f"| `{method}` | not measured | | | | |"
                continue
            path = work / "recipe.yaml"
            path.write_text(yaml.safe_dump(recipe(method, folder, layers)))
            first = merged(bench, path, "cpu", work / "cpu")
            bench.peak()
            second = merged(bench, path, bench.device, work / "device")
            apart = farthest(work / "cpu", work / "device")
            yield (
                f"| `{method}` | {first:.2f} s | {second:.2f} s | {first / second:.1f} "
                f"| {f'{apart:.1e}' if apart else 'same bits'} | {bench.peak()} |"
            )


def copies(bench: Bench) -> Iterator[str]:
    """What it costs to bring numbers to the device, and whether copies beside arithmetic would save it."""
    count = COPIED[bench.device]
    here = torch.zeros(count, dtype=torch.bfloat16)
    pinned = here.pin_memory() if bench.device == "cuda" else here
    there = torch.zeros(count, dtype=torch.float32, device=bench.device)
    landed = torch.zeros(count, dtype=torch.bfloat16, device=bench.device)
    side = torch.cuda.Stream() if bench.device == "cuda" else None

    def arithmetic() -> None:
        for _ in range(4):
            there.mul_(0.5).add_(1.0)

    def overlapped() -> None:
        if side is None:
            landed.copy_(pinned)
        else:
            with torch.cuda.stream(side):
                landed.copy_(pinned, non_blocking=True)
        arithmetic()

    def in_turn() -> None:
        landed.copy_(pinned)
        arithmetic()

    ways: dict[str, Callable[[], object]] = {
        "copied, from ordinary memory": lambda: landed.copy_(here),
        "copied, from pinned memory": lambda: landed.copy_(pinned),
        "arithmetic": arithmetic,
        "copied, then arithmetic": in_turn,
        "copied beside arithmetic": overlapped,
    }
    yield f"| {2 * count / 1e6:.0f} MB of bfloat16 | ms | GB/s |"
    yield "|---|--:|--:|"
    for name, way in ways.items():
        way()
        seconds = min(bench.seconds(way) for _ in range(REPEATS))
        speed = f"{2 * count / seconds / 1e9:.1f}" if name.startswith("copied,") else ""
        yield f"| {name} | {1000 * seconds:.2f} | {speed} |"


def _demo(device: str) -> Any:
    """The demo's base model, loaded."""
    from evaluation import load_model
    from examples.models import BASE, model_folder

    return load_model(model_folder(BASE), device=device)


def chat(bench: Bench) -> Iterator[str]:
    """How quickly the demo's model answers, greedily."""
    from evaluation import reply

    asked = [{"role": "user", "content": "Tell me about a voyage across the sea."}]
    yield "| chat, SmolLM2-135M | first token | tokens/s | memory of the device |"
    yield "|---|--:|--:|--:|"
    for device in dict.fromkeys(("cpu", bench.device)):
        model = _demo(device)
        bench.peak()
        for _ in range(2):  # the first one warms up
            answer = reply(model, asked, max_new_tokens=NEW_TOKENS[device], temperature=0, ends=False)
            list(answer)
        peak = bench.peak() if device == bench.device else ""
        yield (
            f"| {device}, {model.runs_as} | {answer.seconds_to_first_token:.2f} s "
            f"| {answer.tokens_per_second:.1f} | {peak} |"
        )


def perplexity(bench: Bench) -> Iterator[str]:
    """How many tokens a second are scored, beside lm-eval."""
    from bench.perplexity import ours, rolling

    yield "| perplexity, SmolLM2-135M, windows of 2048 | Alloy, tokens/s | lm-eval | nats a token |"
    yield "|---|--:|--:|--:|"
    long = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    for device in dict.fromkeys(("cpu", bench.device)):
        model = _demo(device)
        count = TOKENS[device]
        ids = model.tokenizer(long)["input_ids"]
        text = model.tokenizer.decode((ids * (count // len(ids) + 1))[:count])
        tokens = len(model.tokenizer(text)["input_ids"])
        runs = ours(model, [text], 2048, 2048, True), rolling(model, [text], 2048)
        nats = [run() for run in runs]
        mine, theirs = (min(bench.seconds(run) for _ in range(REPEATS)) for run in runs)
        yield f"| {device} | {tokens / mine:.0f} | {tokens / theirs:.0f} | {nats[0]:.5f}, {nats[1]:.5f} |"


def search(bench: Bench) -> Iterator[str]:
    """A trial and a step by derivatives, of two voices of the demo."""
    from bench.search import Weights, parts
    from evaluation import perplexity as scored
    from searching.gradient import Derivatives
    from searching.live_merge import LiveMerge

    yield "| search, two voices, 6 weights | trial made | trial scored | step by derivatives | memory of the device |"
    yield "|---|--:|--:|--:|--:|"
    space = Weights(3)
    for device in dict.fromkeys(("cpu", bench.device)):
        bench.peak()
        with LiveMerge(space.recipe(space.start), device=device) as live:
            texts = parts(live.model)["choice"]
            points = [[0.4 + 0.1 * turn] * len(space.low) for turn in range(REPEATS)]
            recipes = [space.recipe(point) for point in points]
            made = min(bench.seconds(partial(live.update, one)) for one in recipes)
            judged = sum(bench.seconds(partial(scored, live.model, own.texts)) for own in texts)
            derivatives = Derivatives(live, space)
            step = min(bench.seconds(partial(derivatives.at, point, texts)) for point in points[:2])
        peak = bench.peak() if device == bench.device else ""
        yield f"| {device} | {made:.3f} s | {judged:.2f} s | {step:.2f} s | {peak} |"


PARTS: dict[str, Callable[[Bench], Iterator[str]]] = {
    "methods": each_method,
    "copies": copies,
    "chat": chat,
    "perplexity": perplexity,
    "search": search,
}


def table(bench: Bench, wanted: Sequence[str]) -> Iterator[str]:
    """Lines in Markdown: what it was measured on, and a table for each part."""
    device = torch.cuda.get_device_name() if bench.device == "cuda" else "no GPU"
    threads = f"{torch.get_num_threads()} threads of {platform.machine()}"
    yield f"{time.strftime('%Y-%m-%d')}, {device}, {threads}, torch {torch.__version__}, 3 x {bench.size}"
    for name in wanted:
        yield ""
        if bench.is_over:
            yield f"{name}: not measured, {bench.minutes:g} minutes are over"
            continue
        try:
            yield from PARTS[name](bench)
        except Exception as error:  # what comes after it is worth its minutes all the same
            yield f"{name}: {type(error).__name__}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("methods", nargs="*", metavar="METHOD", default=list(METHODS))
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here. `--device cpu` tries the script without one.")
    bench = Bench(options.device, options.size, options.methods, options.minutes)
    for line in table(bench, options.only):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

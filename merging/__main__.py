"""The command line.

    python -m merging plan RECIPE [--to DEST] [--json]
    python -m merging run RECIPE --to DEST [--public] [--overwrite | --pull-request] [--device D] [--shard-size 2GB]
                         [--workers N]
    python -m merging extract-lora FINETUNE|RECIPE --base BASE --to DEST [--rank 32] [--energy 0.95] [--dtype D]
    python -m merging methods [--json]

Exit status: 0 when it is done; 2 when the recipe cannot be merged (the problems are on stderr); 1 for anything else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from checkpoints.problems import Cancelled, MergeError, PlanError, Problem, RecipeError
from merging.engine.run import run_plan
from merging.engine.torch_import import import_torch
from merging.methods import METHODS
from merging.plan import Plan
from merging.planning.make import SHARD_SIZE, make_plan
from merging.planning.parameters_by_layer import as_data, in_words, resolved
from merging.recipe.reader import read_recipe
from merging.recipe.recipe import Recipe
from merging.tokenizers.report import in_lines

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
DONE, FAILED, CANNOT_BE_MERGED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (RecipeError, PlanError) as error:
        _tell(error.problems)
        return CANNOT_BE_MERGED
    except Cancelled as error:
        _tell(error.problems)
        return FAILED
    except MergeError as error:
        _tell(error.problems)
        return FAILED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m merging", description="Merge language models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="say what a merge will do and cost, and what stands in its way")
    plan.set_defaults(command=_plan)
    run = commands.add_parser("run", help="merge")
    run.set_defaults(command=_run)
    for command in (plan, run):
        command.add_argument("recipe", metavar="RECIPE", help="a YAML file; - for standard input")
        command.add_argument(
            "--to", metavar="DEST", required=command is run, help="a folder, or hf://owner/name"
        )
        command.add_argument("--overwrite", action="store_true", help="replace a model that stands at DEST")
        command.add_argument(
            "--pull-request",
            action="store_true",
            help="where a model stands at DEST, open a pull request there",
        )
        command.add_argument(
            "--shard-size", type=_bytes, default=SHARD_SIZE, metavar="SIZE", help="largest file (2GB)"
        )
        command.add_argument("--json", action="store_true", help="for programs")
    run.add_argument(
        "--public", action="store_true", help="a repository that is created is public, not private"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run.add_argument("--workers", type=_positive, metavar="N", help="threads that merge at a time")

    extract = commands.add_parser("extract-lora", help="make a LoRA adapter of a fine-tune and its base")
    extract.set_defaults(command=_extract)
    extract.add_argument(
        "finetune",
        metavar="FINETUNE",
        help="a folder, owner/name@revision, or a recipe (.yaml; - for standard input), whose merge is taken apart",
    )
    extract.add_argument("--base", metavar="BASE", required=True, help="what it was tuned from")
    extract.add_argument("--to", metavar="DEST", required=True, help="a folder, or hf://owner/name")
    extract.add_argument(
        "--rank", type=_positive, default=32, metavar="N", help="of each matrix, at most (32)"
    )
    extract.add_argument(
        "--energy", type=_share, metavar="SHARE", help="the smallest rank that keeps it, 0.95 for example"
    )
    extract.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    extract.add_argument("--public", action="store_true", help="see run")
    extract.add_argument("--overwrite", action="store_true", help="replace what stands at DEST")

    methods = commands.add_parser("methods", help="list the merge methods and their parameters")
    methods.set_defaults(command=_methods)
    methods.add_argument("--json", action="store_true", help="for programs")
    return parser


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?I?)B?", text.strip().upper())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 2GB or 500MB")
    return int(float(match[1]) * UNITS[match[2]])


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share between 0 and 1")
    return share


def _tell(problems: Iterable[Problem], kind: str = "error") -> None:
    for problem in problems:
        print(f"{kind}: {problem}", file=sys.stderr)


def _recipe(path: str) -> Recipe:
    return read_recipe(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))


def _plan(options: argparse.Namespace) -> int:
    try:
        recipe = _recipe(options.recipe)
    except RecipeError as error:
        if options.json:
            print(json.dumps(Plan("", "", problems=error.problems).summary(), indent=2))
        raise
    plan = make_plan(
        recipe,
        options.to,
        overwrite=options.overwrite,
        pull_request=options.pull_request,
        shard_size=options.shard_size,
    )
    if options.json:
        print(json.dumps({**plan.summary(), "parameters": as_data(plan)}, indent=2, ensure_ascii=False))
    elif plan.ok:
        _describe(plan)
    _tell(plan.warnings, "warning")
    _tell(plan.problems)
    return DONE if plan.ok else CANNOT_BE_MERGED


def _describe(plan: Plan) -> None:
    print(f"{METHODS[plan.method].title}: {METHODS[plan.method].summary}")
    for model in plan.models:
        version = f" at {model.version[:12]}" if model.commit else ""
        print(f"  {model.name}{version}: {model.architecture}, {model.parameters / 1e6:,.0f} M parameters")
        for adapter in model.adapters:
            version = f" at {adapter.version[:12]}" if adapter.commit else ""
            scale = "" if adapter.scale == 1 else f", times {adapter.scale:g}"
            print(f"    with the adapter {adapter.name}{version}{scale}")
    for title, rows in resolved(plan):
        values = [in_words(row) for row in rows]
        print(title if len(set(values)) > 1 else f"{title}: {values[0]}")
        for row, value in zip(rows, values, strict=True):
            if len(set(values)) > 1:
                print(f"  {row.label}: {value}")
    if plan.tokenizer:
        print(*in_lines(plan.tokenizer), sep="\n")
    copied = sum(tensor.copied_from is not None for tensor in plan.tensors)
    print(f"tensors       {len(plan.tensors):,} ({copied:,} copied as they are) in {len(plan.shards)} files")
    print(f"to read       {_size(plan.bytes_in)}")
    way = ", by Xet while it is made" if plan.streams else ""
    print(f"to write      {_size(plan.bytes_out)} ({_size(plan.disk_bytes)} on this machine's disk){way}")
    print(f"peak memory   {_size(plan.peak_memory_bytes)}")
    print(f"time          about {plan.seconds:,.0f} s")


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _run(options: argparse.Namespace) -> int:
    plan = make_plan(
        _recipe(options.recipe),
        options.to,
        overwrite=options.overwrite,
        pull_request=options.pull_request,
        shard_size=options.shard_size,
    )
    _tell(plan.warnings, "warning")
    if not plan.ok:
        raise PlanError(plan.problems)
    if not plan.only_copies:
        import_torch()
    cancel = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: cancel.set())
    signal.signal(signal.SIGTERM, _end)
    bar = _Bar() if sys.stderr.isatty() else None
    result = run_plan(
        plan,
        options.to,
        private=not options.public,
        overwrite=options.overwrite,
        pull_request=options.pull_request,
        device=options.device,
        workers=options.workers,
        on_progress=bar,
        cancel=cancel,
    )
    if bar:
        bar.clear()
    if options.json:
        print(json.dumps(dataclasses.asdict(result), indent=2))
        return DONE
    verified = ", verified" if result.verified else ""
    print(f"{result.url or result.location}: {_size(result.bytes_out)} in {result.seconds:.1f} s{verified}")
    print(f"read by {', '.join(result.read_by)}, written by {', '.join(result.written_by)}")
    return DONE


def _extract(options: argparse.Namespace) -> int:
    # With all of torch, not by `import_torch`: a generator of random numbers needs what that leaves out.
    from merging.lora_extraction import extract_lora

    is_recipe = options.finetune == "-" or options.finetune.endswith((".yaml", ".yml"))
    print(f"{'matrix':60} {'rank':>5} {'energy':>8} {'error':>8}")
    done = extract_lora(
        _recipe(options.finetune) if is_recipe else options.finetune,
        options.base,
        options.to,
        rank=options.rank,
        energy=options.energy,
        dtype=options.dtype,
        private=not options.public,
        overwrite=options.overwrite,
        on_matrix=lambda m: print(f"{m.module:60} {m.rank:5} {m.captured:8.4f} {m.error:8.4f}", flush=True),
    )
    whole = f", {len(done.whole)} tensors whole" if done.whole else ""
    place = done.place.url or done.place.location
    print(f"{place}: {len(done.matrices)} matrices{whole}, {_size(done.nbytes)}")
    return DONE


def _end(*_: object) -> None:
    """A machine that shuts down asks nicely: unlike Ctrl-C that is no wish to have all work undone."""
    sys.exit("error: The merge was ended from outside. Run it again to go on where it stood.")


class _Bar:
    """A line on the terminal with share, bytes, rate and time left."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, progress: object) -> None:
        from merging.engine.run import Progress

        assert isinstance(progress, Progress)
        share = progress.bytes_done / max(progress.bytes_total, 1)
        rate = progress.bytes_done / max(time.monotonic() - self.began, 1e-3)
        left = (progress.bytes_total - progress.bytes_done) / rate if rate else 0
        blocks = "█" * round(share * 30)
        line = (
            f"{progress.phase:12} |{blocks:30}| {share:4.0%} {_size(progress.bytes_done)} of "
            f"{_size(progress.bytes_total)}, {_size(rate)}/s, {left:.0f} s left {progress.message}"
        )
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _methods(options: argparse.Namespace) -> int:
    if options.json:
        listed = [
            {
                "name": method.name,
                "title": method.title,
                "summary": method.summary,
                "paper": method.paper,
                "formula": method.formula,
                "in_mergekit": method.in_mergekit,
                "base_model": method.base,
                "models": [method.min_models, method.max_models],
                "parameters": [dataclasses.asdict(parameter) for parameter in method.parameters],
            }
            for method in METHODS.values()
        ]
        print(json.dumps(listed, indent=2))
        return DONE
    for method in METHODS.values():
        source = method.paper if method.in_mergekit else f"{method.paper} (not in mergekit 0.1.5)"
        print(f"{method.name}: {method.summary}\n  {method.formula}\n  {source}")
        for parameter in method.parameters:
            default = "required" if parameter.required else f"default {parameter.default}"
            each = ", one a model" if parameter.per_model else ""
            print(f"  {parameter.name} ({parameter.expected()}{each}; {default}): {parameter.help}")
    return DONE


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is done and closed; taking torch apart module by module would be a third of a small merge's time.
    os._exit(status)

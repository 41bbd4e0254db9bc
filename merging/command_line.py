"""The commands that merge: `python -m merging`, and `alloy` has them too.

Exit status: 0 when it is done; 2 when the recipe cannot be merged (the problems are on stderr); 3 when `run --strict`
made a model with numbers that are infinite or NaN; 1 for anything else.
Rooms are imported by the command that needs them, so that help and wrong arguments are quick.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from checkpoints.names import model_name
from checkpoints.terminal import (
    AsJson,
    cancel_on_interrupt,
    command,
    commands,
    print_failure,
    print_line,
    print_problems,
    run,
)
from checkpoints.wording import size_in_words

if TYPE_CHECKING:
    from checkpoints.problems import Problem
    from merging.destinations import Receipt
    from merging.engine.engine import Engine
    from merging.engine.result import Progress, Result
    from merging.plan import Plan, PlannedMixture
    from merging.recipe.recipe import Recipe

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
DONE, FAILED, CANNOT_BE_MERGED, NOT_FINITE = 0, 1, 2, 3

app = commands("Merge language models.")

# Plans or runs a text whose documents say more than a merge; None for recipes alone. `alloy` sets it: such a pipeline
# also trains and searches. Arguments: the text, its path, the destination (None to plan it), the command's options.
carry_out: Callable[[str, str, str | None, Mapping[str, Any]], int | None] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run(app, arguments, name="python -m merging")


def _report(error: BaseException, options: Mapping[str, Any]) -> int | None:
    from checkpoints.problems import PlanError, ProblemError, RecipeError

    if not isinstance(error, ProblemError):
        return None
    print_failure(error.problems, options.get("progress"))
    return CANNOT_BE_MERGED if isinstance(error, (RecipeError, PlanError)) else FAILED


_command = functools.partial(command, app=app, report=_report)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?I?)B?", text.strip().upper())
    if not match or float(match[1]) <= 0:
        raise typer.BadParameter(f"'{text}' is not a size such as 2GB or 500MB")
    return int(float(match[1]) * UNITS[match[2]])


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise typer.BadParameter(f"'{text}' is not a share between 0 and 1")
    return share


RecipeFile = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe in YAML; - for standard input.", show_default=False)
]
Destination = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="DEST",
        help="A folder, hf://owner/name, hf://buckets/owner/name, or s3://bucket/path.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the model at DEST.")]
PullRequest = Annotated[
    bool, typer.Option("--pull-request", help="If DEST holds a model, open a pull request there.")
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        parser=_bytes,
        metavar="SIZE",
        help="Size limit of an output file (2GB, or a hundredth of the result if that is more).",
        show_default=False,
    ),
]
Public = Annotated[
    bool, typer.Option("--public", help="Make a new repository public; without this it is private.")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(metavar="auto|cpu|cuda", help="Where the arithmetic runs.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="How many tensors are merged at the same time.")
]
KeepCode = Annotated[
    bool,
    typer.Option(
        "--keep-code",
        help="Copy code in other repositories that the config names, as it is now. Read it first.",
    ),
]


def _recipe(path: str) -> Recipe:
    return _read(_text(path))


def _read(text: str) -> Recipe:
    from merging.recipe.reader import read_recipe

    return read_recipe(text)


def _text(path: str) -> str:
    return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")


def _planned(
    recipe: Recipe,
    to: str | None,
    *,
    overwrite: bool,
    pull_request: bool,
    shard_size: int | None,
    keep_code: bool,
) -> Plan:
    from merging.planning.make import make_plan

    return make_plan(
        recipe,
        to,
        overwrite=overwrite,
        pull_request=pull_request,
        shard_size=shard_size,
        keep_code=keep_code,
    )


@_command("plan")
def plan(
    recipe: RecipeFile,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DEST",
            help="A folder, hf://owner/name, hf://buckets/owner/name, or s3://bucket/path.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    pull_request: PullRequest = False,
    shard_size: ShardSize = None,
    keep_code: KeepCode = False,
    as_json: AsJson = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended, and print the recipe instead of the plan.")
    ] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="With --fix: write it to RECIPE.")] = False,
) -> int:
    """Show what a merge will do and cost, and every problem with it. Reads headers only."""
    from checkpoints.problems import RecipeError
    from merging.plan import Plan
    from merging.planning.parameters_by_layer import as_data

    def planned_to(read: Recipe) -> Plan:
        return _planned(
            read,
            to,
            overwrite=overwrite,
            pull_request=pull_request,
            shard_size=shard_size,
            keep_code=keep_code,
        )

    if in_place and (recipe == "-" or not fix):
        raise typer.BadParameter("--in-place goes with --fix and a file")
    if fix:
        return _fix(recipe, in_place, planned_to)
    text = _text(recipe)
    status = carry_out(text, recipe, None, {"to": to, "as_json": as_json}) if carry_out else None
    if status is not None:
        return status
    try:
        read = _read(text)
    except RecipeError as error:
        if as_json:
            print(json.dumps(Plan("", "", problems=error.problems).summary(), indent=2))
        raise
    planned = planned_to(read)
    if as_json:
        print(json.dumps({**planned.summary(), "parameters": as_data(planned)}, indent=2, ensure_ascii=False))
    elif planned.ok:
        _describe(planned)
    print_problems(planned.warnings, "warning")
    print_problems(planned.problems)
    return DONE if planned.ok else CANNOT_BE_MERGED


def _fix(path: str, in_place: bool, planned: Callable[[Recipe], Plan]) -> int:
    """Print, or write, a recipe after all fixes that leave nothing to choose; what is left goes to stderr."""
    from checkpoints.problems import RecipeError
    from merging.licences import common_base
    from merging.recipe.fixes import mended
    from merging.recipe.reader import read_recipe

    @functools.cache
    def found(text: str) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        """Problems and warnings of a recipe."""
        try:
            plan = planned(read_recipe(text))
        except RecipeError as error:
            return error.problems, ()
        return plan.problems, plan.warnings

    before = _text(path)
    text, done = mended(
        before, lambda text: list(chain(*found(text))), lambda names: common_base(names, None)
    )
    for each in done:
        print(f"fixed: {each.title}", file=sys.stderr)
    if not in_place:
        print(text, end="")
    elif text != before:
        Path(path).write_text(text, encoding="utf-8")
    problems, _ = found(text)
    print_problems(problems)
    return CANNOT_BE_MERGED if problems else DONE


def _describe(plan: Plan) -> None:
    from merging.methods import METHODS
    from merging.planning.parameters_by_layer import in_words, resolved
    from merging.tokenizers.report import in_lines

    if plan.mixture:
        print(f"Mixture of {len(plan.mixture.experts)} experts: {plan.mixture.architecture}")
    else:
        print(f"{METHODS[plan.method].title}: {METHODS[plan.method].summary}")
    for model in plan.models:
        if model.generated:
            continue
        version = f" at {model.version[:12]}" if model.commit else ""
        cached = ", read from the cache" if model.is_cached else ""
        count = f"{model.parameters / 1e6:,.0f} M parameters"
        print(f"  {model.name}{version}: {model.architecture}, {count}{cached}")
        for adapter in model.adapters:
            version = f" at {adapter.version[:12]}" if adapter.commit else ""
            scale = "" if adapter.scale == 1 else f", times {adapter.scale:g}"
            cached = ", read from the cache" if adapter.is_cached else ""
            print(f"    with the adapter {adapter.name}{version}{scale}{cached}")
    if plan.mixture:
        _describe_mixture(plan.mixture)
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
    print(f"to read       {size_in_words(plan.bytes_in)}")
    way = ", by Xet while it is made" if plan.streams else ""
    print(
        f"to write      {size_in_words(plan.bytes_out)} ({size_in_words(plan.disk_bytes)} on this machine's disk){way}"
    )
    print(f"peak memory   {size_in_words(plan.peak_memory_bytes)}")
    print(f"time          about {plan.seconds:,.0f} s")


def _describe_mixture(mixture: PlannedMixture) -> None:
    for number, expert in enumerate(mixture.experts):
        print(f"expert {number:<6} {expert}")
    if mixture.shared:
        print(f"shared expert {mixture.shared}")
    print(f"routers       {mixture.gate_mode}; a token passes through {mixture.per_token} of the experts")
    print(f"the rest      {'averaged over the experts' if mixture.averages else 'the base'}")


@_command("run")
def run_recipe(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...",
            help="A recipe in YAML; - for standard input. Several share what they read.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DEST",
            help="A folder, hf://owner/name, hf://buckets/owner/name, or s3://bucket/path. Of several recipes, {name} "
            "is the file's name.",
            show_default=False,
        ),
    ],
    overwrite: Overwrite = False,
    pull_request: PullRequest = False,
    shard_size: ShardSize = None,
    keep_code: KeepCode = False,
    as_json: AsJson = False,
    public: Public = False,
    device: Device = "auto",
    workers: Workers = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with status 3 if a number of the result is infinite or NaN.")
    ] = False,
    gguf: Annotated[
        str | None,
        typer.Option(
            metavar="TYPES",
            help="Also make GGUF files of these types, such as Q4_K_M,Q8_0, in DEST-GGUF.",
            show_default=False,
        ),
    ] = None,
    only_gguf: Annotated[
        bool, typer.Option("--only-gguf", help="With --gguf: make nothing else, and put the files in DEST.")
    ] = False,
    progress: Annotated[
        Literal["bar", "jsonl"],
        typer.Option(metavar="bar|jsonl", help="Progress on stderr: a bar on a terminal, or lines of JSON."),
    ] = "bar",
    receipts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What `alloy part` printed, of all parts; - for standard input.",
            show_default=False,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of a pipeline: for what its stages leave until its end."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Of a pipeline: continue with a training's result that did not heal."),
    ] = False,
    on: Annotated[
        Literal["ray"] | None,
        typer.Option(
            metavar="ray",
            help="Make the files on a Ray cluster: of RAY_ADDRESS, of this machine, or a new one.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Merge, or carry out a pipeline. The result appears whole, in one rename or one commit, or not at all."""
    if only_gguf and not gguf:
        raise typer.BadParameter("--only-gguf goes with --gguf")
    if on and gguf:
        raise typer.BadParameter("--on goes without --gguf")
    recipe, *others = recipes
    if receipts and (gguf or others or receipts == recipe == "-"):
        raise typer.BadParameter("--receipts goes with one recipe in a file, and without --gguf")
    if others:
        for_existing = {"overwrite": overwrite, "pull_request": pull_request}
        return _run_several(
            _places(recipes, to),
            {**for_existing, "shard_size": shard_size, "keep_code": keep_code},
            {
                **for_existing,
                "private": not public,
                "device": device,
                "workers": workers,
                "gguf": gguf.split(",") if gguf else None,
                "only_gguf": only_gguf,
            },
            on=on,
            strict=strict,
            as_json=as_json,
            progress=progress,
        )
    text = _text(recipe)
    given = {"public": public, "device": device, "as_json": as_json, "work": work, "keep": keep}
    status = carry_out(text, recipe, to, given) if carry_out else None
    if status is not None:
        return status
    planned = _planned(
        _read(text),
        None if only_gguf else to,
        overwrite=overwrite,
        pull_request=pull_request,
        shard_size=shard_size,
        keep_code=keep_code,
    )
    return _run(
        planned,
        to,
        overwrite=overwrite,
        pull_request=pull_request,
        public=public,
        device=device,
        workers=workers,
        gguf=gguf.split(",") if gguf else None,
        only_gguf=only_gguf,
        strict=strict,
        as_json=as_json,
        progress=progress,
        receipts=_receipts(receipts, planned) if receipts else (),
        on=_engine(on),
    )


def _places(recipes: Sequence[str], to: str) -> dict[str, str]:
    """The destinations of several recipes, by their files."""
    names = [Path(recipe).stem for recipe in recipes]
    if "-" in recipes or "{name}" not in to or len(set(names)) < len(names):
        raise typer.BadParameter("several recipes need files of different names, and {name} in --to")
    return {recipe: to.replace("{name}", name) for recipe, name in zip(recipes, names, strict=True)}


def _run_several(
    places: Mapping[str, str],
    planning: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    on: str | None,
    strict: bool,
    as_json: bool,
    progress: str,
) -> int:
    """Run several recipes together, and print what each came to; the worst exit status. None of them begins before all
    are planned, and nothing begins if one has problems."""
    from checkpoints.problems import MergeError, RecipeError
    from merging.engine.run import run_plan
    from merging.engine.several import run_plans
    from merging.licences import licence_of

    def failed(recipe: str, problems: Sequence[Problem]) -> None:
        print_problems(problems, f"{recipe}: error")
        if progress == "jsonl":
            print_line("failed", recipe=recipe, problems=[problem.as_dict() for problem in problems])

    plans: dict[str, Plan] = {}
    for recipe, to in places.items():
        try:
            planned = _planned(_recipe(recipe), None if options["only_gguf"] else to, **planning)
            problems = planned.problems
        except RecipeError as error:
            problems = error.problems
        if problems:
            failed(recipe, problems)
            continue
        print_problems(planned.warnings, f"{recipe}: warning")
        plans[recipe] = planned
    if len(plans) < len(places):
        return CANNOT_BE_MERGED
    merges = [(planned, places[recipe]) for recipe, planned in plans.items()]
    licences = [licence_of(planned, None) for planned in plans.values()]
    cancel = cancel_on_interrupt()
    signal.signal(signal.SIGTERM, _end)
    results: list[Result | MergeError] = []
    with _json_lines() if progress == "jsonl" else _progress_bar() as show:
        if on:
            for (planned, to), licence in zip(merges, licences, strict=True):
                try:
                    engine = _engine(on)
                    watch: dict[str, Any] = {"on_progress": show, "cancel": cancel, "licence": licence}
                    results.append(run_plan(planned, to, on=engine, **watch, **options))
                except MergeError as error:
                    results.append(error)
        else:
            results = run_plans(merges, licences=licences, on_progress=show, cancel=cancel, **options)
    status = DONE
    for recipe, result in zip(places, results, strict=True):
        if isinstance(result, MergeError):
            failed(recipe, result.problems)
            status = FAILED
            continue
        if progress == "jsonl":
            print_line("done", recipe=recipe, result=dataclasses.asdict(result))
        print_problems(result.warnings, f"{recipe}: warning")
        if strict and result.not_finite:
            status = max(status, NOT_FINITE) if status != FAILED else status
        size = f"{size_in_words(result.bytes_out)} in {result.seconds:.1f} s"
        line = json.dumps({"recipe": recipe, **dataclasses.asdict(result)}) if as_json else ""
        print(line or f"{result.url or result.location}: {size}{', verified' if result.verified else ''}")
    return status


def _engine(name: str | None) -> Engine | None:
    """The engine of an option; None: the one that suits this machine."""
    if name is None:
        return None
    from merging.engine.cluster import RayEngine

    return RayEngine()


def _receipts(path: str, planned: Plan) -> list[Receipt]:
    from merging.engine.work import read_receipts

    return read_receipts(_text(path).splitlines(), planned) if planned.ok else []


@_command("begin")
def begin(
    recipe: RecipeFile,
    to: Destination,
    work: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the work is written to.", show_default=False)
    ],
    overwrite: Overwrite = False,
    pull_request: PullRequest = False,
    shard_size: ShardSize = None,
    keep_code: KeepCode = False,
    public: Public = False,
) -> int:
    """Begin a merge whose parts are made by other processes or machines (`alloy part`), and finished by `alloy run`."""
    from merging.engine.work import begin_work

    for_existing = {"overwrite": overwrite, "pull_request": pull_request}
    planned = _planned(_recipe(recipe), to, **for_existing, shard_size=shard_size, keep_code=keep_code)
    print_problems(planned.warnings, "warning")
    begun = begin_work(planned, to, private=not public, **for_existing)
    work.write_text(begun.to_json(), encoding="utf-8")
    print(f"{work}: {len(begun.task.plan.shards)} of {len(planned.shards)} files are to be made")
    return DONE


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter(f"'{text}' is not a part such as 3/16")
    return int(match[1]), int(match[2])


@_command("part")
def make_part(
    work: Annotated[
        str, typer.Argument(metavar="WORK", help="What `alloy begin` wrote.", show_default=False)
    ],
    part: Annotated[
        Any,
        typer.Option(parser=_part, metavar="I/N", help="Which part of how many, from 1.", show_default=False),
    ],
    device: Device = "auto",
    workers: Workers = None,
) -> int:
    """Make one part of a merge. Prints a receipt for each file, as a line of JSON, and publishes nothing."""
    from merging.engine.task import make_shards
    from merging.engine.work import Work, receipt_line

    begun = Work.from_json(_text(work))
    task = begun.part(*part)
    signal.signal(signal.SIGTERM, _end)
    for receipt in make_shards(task, device="cpu" if device == "auto" else device, workers=workers):
        print(receipt_line(begun.merge, receipt), flush=True)
    return DONE


def _run(
    planned: Plan,
    to: str,
    *,
    public: bool,
    strict: bool,
    as_json: bool,
    progress: str = "bar",
    **options: Any,
) -> int:
    """Run a plan with options of `run_plan`, and print what it came to; the exit status."""
    from checkpoints.problems import PlanError
    from merging.engine.run import run_plan
    from merging.licences import licence_of

    print_problems(planned.warnings, "warning")
    if not planned.ok:
        raise PlanError(planned.problems)
    cancel = cancel_on_interrupt()
    signal.signal(signal.SIGTERM, _end)
    with _json_lines() if progress == "jsonl" else _progress_bar() as show:
        result = run_plan(
            planned,
            to,
            private=not public,
            licence=licence_of(planned, None),
            on_progress=show,
            cancel=cancel,
            **options,
        )
    if progress == "jsonl":
        print_line("done", result=dataclasses.asdict(result))
    print_problems(result.warnings, "warning")
    status = NOT_FINITE if strict and result.not_finite else DONE
    if as_json:
        print(json.dumps(dataclasses.asdict(result), indent=2))
        return status
    verified = ", verified" if result.verified else ""
    print(
        f"{result.url or result.location}: {size_in_words(result.bytes_out)} in {result.seconds:.1f} s{verified}"
    )
    if result.gguf:
        print(f"{result.gguf.url or result.gguf.location}: GGUF files")
    print(f"read by {', '.join(result.read_by)}, written by {', '.join(result.written_by)}")
    if compared := _approximated(planned):
        merged = model_name(result.location)
        print(
            f"what the new rows cost: alloy perplexity {shlex.join([merged, *compared])} (compare bits per byte)"
        )
    return status


def _approximated(plan: Plan) -> list[str]:
    """The models of a plan whose rows are approximated."""
    return [model.name for model in plan.models if model.approximating]


def _end(*_: object) -> None:
    """End a merge when the machine shuts down. Unlike Ctrl-C this keeps the finished shards."""
    sys.exit("error: The merge was stopped from outside. Run it again to continue.")


@contextmanager
def _json_lines() -> Iterator[Callable[[Progress], None]]:
    """Lines of JSON on stderr: one a second at most, and one for each new phase."""
    phase, due = "", 0.0

    def show(progress: Progress) -> None:
        nonlocal phase, due
        if progress.phase != phase or time.monotonic() >= due:
            phase, due = progress.phase, time.monotonic() + 1
            print(json.dumps(dataclasses.asdict(progress)), file=sys.stderr, flush=True)

    yield show


@contextmanager
def _progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """A bar with bytes, speed and time left; nothing where stderr is no terminal."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # its thread would keep a merge from forking processes

        @property
        def format_dict(self) -> dict[str, Any]:
            found = super().format_dict
            rate = found["rate"] or 0
            left = (found["total"] - found["n"]) / rate if rate else 0
            sizes = {
                "done": size_in_words(found["n"]),
                "whole": size_in_words(found["total"]),
                "speed": size_in_words(rate),
            }
            return {**found, **sizes, "left": f"{left:.0f} s left"}

    line = "{desc} {percentage:3.0f}% |{bar:20}| {done} of {whole}, {speed}/s, {left}{postfix}"
    # tqdm shows nothing on a terminal that says it has 0 columns and rows.
    columns, rows = shutil.get_terminal_size()
    with Bar(total=0, bar_format=line, ncols=columns, nrows=rows, leave=False, disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.n, bar.total = progress.bytes_done, progress.bytes_total
            bar.set_description_str(progress.phase, refresh=False)
            bar.set_postfix_str(progress.message)

        yield None if bar.disable else show


@_command("gguf")
def make_gguf(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder, owner/name[@revision], or a recipe (.yaml, or - for standard input).",
            show_default=False,
        ),
    ],
    to: Destination,
    types: Annotated[
        str,
        typer.Option(
            metavar="TYPES", help="Types of the files: BF16, F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, Q3_K_M."
        ),
    ] = "Q4_K_M",
    overwrite: Overwrite = False,
    pull_request: PullRequest = False,
    public: Public = False,
    as_json: AsJson = False,
) -> int:
    """Make GGUF files for llama.cpp and Ollama of a model, or of a recipe's result."""
    from merging.gguf.recipe import recipe_of

    is_recipe = model == "-" or model.endswith((".yaml", ".yml"))
    planned = _planned(
        _recipe(model) if is_recipe else recipe_of(model),
        None,
        overwrite=overwrite,
        pull_request=pull_request,
        shard_size=None,
        keep_code=False,
    )
    return _run(
        planned,
        to,
        overwrite=overwrite,
        pull_request=pull_request,
        public=public,
        gguf=types.split(","),
        only_gguf=True,
        strict=False,
        as_json=as_json,
    )


@_command("extract-lora")
def extract_adapter(
    finetune: Annotated[
        str,
        typer.Argument(
            metavar="FINETUNE",
            help="A folder, owner/name[@revision], or a recipe (.yaml, or - for standard input).",
            show_default=False,
        ),
    ],
    base: Annotated[
        str, typer.Option(metavar="BASE", help="The model it was tuned from.", show_default=False)
    ],
    to: Destination,
    rank: Annotated[int, typer.Option(min=1, metavar="N", help="Largest rank of a matrix.")] = 32,
    energy: Annotated[
        float | None,
        typer.Option(
            parser=_share,
            metavar="SHARE",
            help="Give each matrix the smallest rank that keeps this share of its change, such as 0.95.",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(metavar="float32|bfloat16|float16", help="Number format of the adapter."),
    ] = "float32",
    public: Public = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the adapter at DEST.")] = False,
) -> int:
    """Make a LoRA adapter of the difference between a fine-tune, or a recipe's result, and its base."""
    from merging.lora_extraction import extract_lora

    is_recipe = finetune == "-" or finetune.endswith((".yaml", ".yml"))
    print(f"{'matrix':60} {'rank':>5} {'energy':>8} {'error':>8}")
    done = extract_lora(
        _recipe(finetune) if is_recipe else finetune,
        base,
        to,
        rank=rank,
        energy=energy,
        dtype=dtype,
        private=not public,
        overwrite=overwrite,
        on_matrix=lambda m: print(f"{m.module:60} {m.rank:5} {m.captured:8.4f} {m.error:8.4f}", flush=True),
    )
    whole = f", {len(done.whole)} tensors whole" if done.whole else ""
    place = done.place.url or done.place.location
    print(f"{place}: {len(done.matrices)} matrices{whole}, {size_in_words(done.nbytes)}")
    for warning in done.warnings:
        print(f"  warning: {warning}")
    return DONE


Shaped = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, or owner/name[@revision].", show_default=False)
]


def _layer_numbers(text: str) -> list[int]:
    """Numbers and ranges, the last layer included: `12-15,20`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if not match:
            raise typer.BadParameter(f"'{text}' is not a list of layers such as 12-15,20")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


@_command("cut")
def cut(
    model: Shaped,
    layers: Annotated[
        str,
        typer.Option(
            metavar="LAYERS",
            help="To leave out, such as 12-15,20; the first layer is 0. `alloy influence` tries the best ones.",
            show_default=False,
        ),
    ],
) -> int:
    """Print the recipe of a model without some layers, which `alloy run` and mergekit read."""
    from merging.shaping import cut_recipe

    print(cut_recipe(model, _layer_numbers(layers)), end="")
    return DONE


@_command("stack")
def stack(
    model: Shaped,
    layers: Annotated[
        str,
        typer.Option(
            metavar="LAYERS",
            help="To repeat, such as 12-15,20; the first layer is 0.",
            show_default=False,
        ),
    ],
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Copy layers as they are. Without this, copies add nothing until they are trained, and the "
            "model predicts what its parent does.",
        ),
    ] = False,
) -> int:
    """Print the recipe of a model with some layers repeated (depth up-scaling), which `alloy run` and mergekit read."""
    from merging.shaping import stack_recipe

    print(stack_recipe(model, _layer_numbers(layers), silent=not plain), end="")
    return DONE


@_command("route")
def route(
    recipe: RecipeFile,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="A text to try, besides the recipe's own. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show which expert of a mixture each prompt would reach. Reads the base model once, and makes nothing."""
    from merging.prompt_routing import route_prompts

    routing = route_prompts(_recipe(recipe), prompts or ())
    if as_json:
        warnings = [warning.as_dict() for warning in routing.warnings]
        found = {**dataclasses.asdict(routing), "warnings": warnings}
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return DONE
    for number, expert in enumerate(routing.experts):
        print(f"expert {number}: {expert}")
    columns = "".join(f"{number:>7}" for number in range(len(routing.experts)))
    print(f"{'weight by expert':<44}{columns}   most  meant")
    for prompt in routing.prompts:
        weights = "".join(f"{weight:7.3f}" for weight in prompt.weights)
        text = " ".join(prompt.text.split())[:42]
        meant = "" if prompt.expert is None else prompt.expert
        print(f"{text:<44}{weights}{prompt.reached:7}{meant:>7}")
    for pair in routing.pairs:
        print(f"experts {pair.first} and {pair.second}: cosine {pair.cosine:.4f}")
    print_problems(routing.warnings, "warning")
    return DONE


@_command("methods")
def methods(as_json: AsJson = False) -> int:
    """List the merge methods and their parameters."""
    from merging.methods import METHODS

    if as_json:
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

"""The commands that search: `python -m searching`, and `alloy search`.

Exit status: 0 when it is done; 2 when the space cannot be searched or the text is too small (the problems are on
stderr); 1 for anything else. Rooms are imported by the command that needs them, so that help and wrong arguments are
quick.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from checkpoints.terminal import (
    REFUSED,
    AsJson,
    Device,
    ProgressAs,
    cancel_on_interrupt,
    command,
    commands,
    print_failure,
    print_line,
    print_problems,
    reporter,
    run,
)
from searching.goals import Way

if TYPE_CHECKING:
    from searching.plan import Measured, SearchPlan
    from searching.run import SearchProgress

DONE, CANNOT_BE_SEARCHED = 0, REFUSED

app = commands("Search for the best coefficients of a recipe.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run(app, arguments, name="python -m searching")


_report = reporter("Searching", "search", "Run it again to continue.")
_command = functools.partial(command, app=app, report=_report)


SpaceFile = Annotated[
    Path,
    typer.Argument(
        metavar="SPACE",
        help="A recipe with ranges and a `search:` block, in YAML, or a file for mergekit-evolve.",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a search.", show_default=False)]
Workers = Annotated[
    int, typer.Option(min=1, metavar="N", help="Processes that score at the same time; each holds a model.")
]
WorkersOn = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        show_default=False,
        help="Processes that score at the same time; each holds a model. One, or with --on as many as fit.",
    ),
]
On = Annotated[
    Literal["ray"] | None,
    typer.Option(
        metavar="ray",
        help="Score on the machines of a Ray cluster: of RAY_ADDRESS, of this machine, or a new one.",
        show_default=False,
    ),
]
By = Annotated[
    Way | None,
    typer.Option(metavar="WAY", help="How points are chosen, instead of what the space says."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="ALLOY_STORAGE",
        show_default=False,
        help="A database for a search on several machines, such as `postgresql://user:password@host/name`.",
    ),
]


def _planned(
    path: Path,
    workers: int | None,
    by: str | None,
    device: str,
    on: str | None = None,
    texts: Path | None = None,
) -> SearchPlan:
    from searching.plan import plan_search
    from searching.space_reader import read_space

    space = read_space(path.read_text(encoding="utf-8"))
    if by is not None:
        space = space.searched_by(by)  # type: ignore[arg-type]
    cluster = None
    if on:
        from checkpoints.ray_cluster import RayCluster

        cluster = RayCluster()
    documents = json.loads(texts.read_text(encoding="utf-8")) if texts else None
    return plan_search(space, folder=path.parent, workers=workers, on=cluster, device=device, texts=documents)


@_command("plan")
def plan(
    space: SpaceFile,
    workers: Workers = 1,
    by: By = None,
    device: Device = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="Load no model, and leave out time and least difference.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show what a search would do, what it would cost, and the least difference that it could show."""
    from searching.plan import measure

    planned = _planned(space, workers, by, device)
    print_problems(planned.warnings, "warning")
    measured = None if quick or not planned.ok else measure(planned)
    if as_json:
        figures = {} if measured is None else {"measured": measured._asdict()}
        print(json.dumps({**planned.summary(), **figures}, indent=2, ensure_ascii=False))
    else:
        _print_plan(planned, measured)
    print_problems(planned.problems)
    return DONE if planned.ok else CANNOT_BE_SEARCHED


def _print_plan(planned: SearchPlan, measured: Measured | None) -> None:
    settings = planned.space.settings
    print(f"{len(planned.space.axes)} values may change:")
    for axis in planned.space.axes:
        print(f"  {axis.name}: {axis.described()}, from {axis.start}")
    print("documents:")
    for name, counts in planned.data.counts().items():
        print(f"  {name}: " + ", ".join(f"{count} {part}" for part, count in counts.items()))
    limit = f", at most {settings.minutes:g} minutes" if settings.minutes is not None else ""
    print(f"up to {settings.trials} trials by {settings.by}{limit}")
    least, kept, free = (
        size / 1e9 for size in (planned.memory_bytes, planned.kept_bytes, planned.free_bytes)
    )
    print(f"memory: {least:.2f} GB, and {kept:.2f} GB to keep the parents' changes; {free:.2f} GB are free")
    if measured is not None:
        print(*measured.remarks, sep="\n")


@_command("run")
def search(
    space: SpaceFile,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="For records and results.", show_default=False)
    ],
    workers: WorkersOn = None,
    by: By = None,
    device: Device = "auto",
    finish: Annotated[
        bool,
        typer.Option("--finish", help="Score no further trial: choose among those that ended, and report."),
    ] = False,
    storage: Storage = None,
    backup: Annotated[
        str | None,
        typer.Option(
            metavar="hf://OWNER/NAME",
            show_default=False,
            help="A private repository for a copy of the records, from where another machine continues.",
        ),
    ] = None,
    on: On = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Documents in JSON, by the names that the space calls them.",
        ),
    ] = None,
    progress: ProgressAs = "text",
    as_json: AsJson = False,
) -> int:
    """Search, or continue a search. Ctrl-C keeps what was scored."""
    from searching.run import run_search

    planned = _planned(space, workers, by, device, on, texts)
    print_problems(planned.warnings, "warning")
    if not planned.ok:
        print_failure(planned.problems, progress)
        return CANNOT_BE_SEARCHED
    show = _print_progress if progress == "text" else _print_progress_line
    found = run_search(
        planned,
        to,
        finish=finish,
        storage=storage,
        backup=backup,
        on_trial=show,
        cancel=cancel_on_interrupt(),
    )
    if progress == "jsonl":
        print_line("done", report=found.report.to_dict())
    if as_json:
        print(json.dumps(found.report.to_dict(), indent=2, ensure_ascii=False))
        return DONE
    print(found.report.verdict)
    print(
        f"The report is in {to / 'report.md'}"
        + (f", the recipe in {to / 'best.yaml'}." if found.best else ".")
    )
    return DONE


@_command("join")
def join(
    space: SpaceFile,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="For this machine's records.", show_default=False)
    ],
    storage: Storage = None,
    workers: Workers = 1,
    by: By = None,
    device: Device = "auto",
) -> int:
    """Score trials of a search that another machine runs with the same space and `--storage`."""
    from searching.run import join_search

    if storage is None:
        raise typer.BadParameter("name the database of the search", param_hint="--storage")
    planned = _planned(space, workers, by, device)
    print_problems(planned.warnings, "warning")
    if not planned.ok:
        print_problems(planned.problems)
        return CANNOT_BE_SEARCHED
    count = join_search(planned, to, storage, on_trial=_print_progress, cancel=cancel_on_interrupt())
    print(f"Trials scored here: {count}. The machine that began the search reports.")
    return DONE


def _print_progress(progress: SearchProgress) -> None:
    scored = progress.scored
    if scored.who == "trial 0" and scored.part == "search" and progress.measured:
        print(*progress.measured.remarks, sep="\n", file=sys.stderr)
    value = "failed" if scored.state == "failed" else "stopped early"
    if progress.value is not None:
        value = f"{progress.value:.4f}"
    said = f"{scored.who} ({scored.part}): {value}"
    if progress.phase == "trials":
        if progress.best is not None and progress.average is not None:
            said += f"; best {progress.best:.4f}, plain average {progress.average:.4f}"
        if progress.seconds_left:
            said += f"; about {progress.seconds_left / 60:.1f} minutes left"
    if scored.problem is not None:
        said += f": {scored.problem}"
    print(said, file=sys.stderr, flush=True)


def _print_progress_line(progress: SearchProgress) -> None:
    scored = progress.scored
    print_line(
        progress.phase, who=scored.who, part=scored.part, value=progress.value, best=progress.best,
        trials=progress.trials, seconds_left=progress.seconds_left,
        least=progress.measured.least if progress.measured else None,
    )  # fmt: skip


@_command("report")
def report(folder: Folder, as_json: AsJson = False) -> int:
    """Print the report of a search."""
    from checkpoints.problems import Problem
    from searching.optimiser import SearchError

    content = _content(folder / ("report.json" if as_json else "report.md"))
    if content is None:
        raise SearchError(Problem("no-search", {"folder": str(folder)}))
    print(content, end="")
    return DONE


@_command("best")
def best(folder: Folder) -> int:
    """Print the best recipe of a search, which `alloy run` merges."""
    from checkpoints.problems import Problem
    from searching.optimiser import SearchError

    content = _content(folder / "best.yaml")
    if content is None:
        raise SearchError(Problem("no-best", {"folder": str(folder)}))
    print(content, end="")
    return DONE


def _content(path: Path) -> str | None:
    """The text of a file; None if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else None

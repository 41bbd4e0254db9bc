"""The front ends' common ground: how a command line is declared, and how it ends."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

if TYPE_CHECKING:
    from checkpoints.problems import Problem

Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(metavar="auto|cpu|cuda", help="Where models run.")
]
ProgressAs = Annotated[
    Literal["text", "jsonl"],
    typer.Option(
        "--progress", metavar="text|jsonl", help="Progress as text, or as lines of JSON on standard error."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def commands(help: str, *, add_completion: bool = False) -> typer.Typer:
    """An empty command line.

    Typer's own tracebacks are off: they may show the values of variables, and a token may be one of them. Help is plain
    text: boxes take 0.1 seconds of CPU.
    """
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=add_completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


FAILED, REFUSED = 1, 2

# Prints what a command raised, whose options are the second argument; returns the exit status, or None for what is
# another's.
Report = Callable[[BaseException, Mapping[str, Any]], int | None]
Command = Callable[..., int]


def command(
    name: str, *, app: typer.Typer, report: Report, cls: type[TyperCommand] | None = None
) -> Callable[[Command], Command]:
    """Make a function a command, which prints what it raises and ends with an exit status.

    Args:
        name: of the command
        app: the commands
        report: prints errors of this front end; those of the system are printed here
        cls: how its arguments are read, if not as usual
    """

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def run_command(*arguments: Any, **options: Any) -> int:
            try:
                return function(*arguments, **options)
            except (Exception, KeyboardInterrupt) as error:
                status = report(error, options)
                if status is not None:
                    return status
                if not isinstance(error, OSError):
                    raise
                print(f"error: {error}", file=sys.stderr)
                return 1

        return app.command(name, cls=cls)(run_command)

    return register


def reporter(doing: str, extra: str, stopped: str = "") -> Report:
    """Prints the errors of a front end.

    The status is REFUSED where a recipe or what belongs to it cannot be used, else FAILED.

    Args:
        doing: what libraries are needed for, such as "Searching"
        extra: of the package, which has them
        stopped: what a user who stopped it should know
    """

    def report(error: BaseException, options: Mapping[str, Any]) -> int | None:
        from checkpoints.problems import Cancelled, PlanError, ProblemError, RecipeError

        if isinstance(error, (Cancelled, KeyboardInterrupt)):
            print(f"error: stopped. {stopped}".rstrip(), file=sys.stderr)
            return FAILED
        if isinstance(error, ProblemError):
            print_failure(error.problems, options.get("progress"))
            return REFUSED if isinstance(error, (RecipeError, PlanError)) else FAILED
        if isinstance(error, ModuleNotFoundError):
            print(f"error: {error}. {doing} needs: pip install 'alloy-merge[{extra}]'", file=sys.stderr)
            return FAILED
        return None

    return report


def cancel_on_interrupt() -> threading.Event:
    """An event that Ctrl-C sets."""
    cancel = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: cancel.set())
    return cancel


def print_line(phase: str, **values: Any) -> None:
    """Print a line of JSON about progress to stderr."""
    print(json.dumps({"phase": phase, **values}), file=sys.stderr, flush=True)


def print_problems(problems: Iterable[Problem], kind: str = "error") -> None:
    """Print problems or warnings to stderr, one a line."""
    for problem in problems:
        print(f"{kind}: {problem}", file=sys.stderr)


def print_failure(problems: Sequence[Problem], progress: str | None) -> None:
    """Print problems that end a command, as a line of JSON too where its progress is printed so."""
    print_problems(problems)
    if progress == "jsonl":
        print_line("failed", problems=[problem.as_dict() for problem in problems])


def run(app: typer.Typer, arguments: Sequence[str] | None = None, *, name: str) -> int:
    """Run one command and return its exit status.

    Args:
        app: the commands; each returns its status
        arguments: of the command line; those of this process if None
        name: the program, as a usage line shows it

    Raises:
        SystemExit: the arguments are wrong, with status 2; the reason is on stderr.
    """
    try:
        return int(app(arguments, prog_name=name, standalone_mode=False) or 0)
    except TyperException as error:
        print(f"error: {error.format_message().rstrip('.')}. Try --help.", file=sys.stderr)
        sys.exit(error.exit_code)

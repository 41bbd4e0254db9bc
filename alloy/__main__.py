"""The command `alloy`, also `python -m alloy`: everything that `merging`, `evaluation`, `searching` and `healing`
can do, and the page."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import evaluation.command_line
import healing.command_line
import merging.command_line
import searching.command_line
from alloy import __version__
from checkpoints.terminal import commands, run

if TYPE_CHECKING:
    from evaluation.influence import Cut

app = commands("Merge language models, chat with the result and score it.", add_completion=True)
app.add_typer(merging.command_line.app)
app.add_typer(evaluation.command_line.app)
app.add_typer(searching.command_line.app, name="search")
app.add_typer(healing.command_line.app, name="heal")


def _write_gguf(model: str, kind: str, folder: Path) -> Path:
    from merging.gguf_conversion import write_gguf

    return write_gguf(model, kind, folder)


def _cut_recipe(model: str, cut: Cut) -> str:
    from merging.shaping import cut_recipe

    return cut_recipe(model, cut.dropped)


def _carry_out(text: str, path: str, to: str | None, given: Mapping[str, Any]) -> int | None:
    if not re.search(r"^(train|gguf):", text, re.MULTILINE):
        return None  # pipelines need torch, and recipes do not
    from alloy.pipeline_command import carry_out

    return carry_out(text, path, to, given)


merging.command_line.carry_out = _carry_out
evaluation.command_line.write_gguf = _write_gguf
evaluation.command_line.cut_recipe = _cut_recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run(app, arguments, name="alloy")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"alloy {__version__}")
        raise typer.Exit


@app.callback()
def alloy(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Merge language models, chat with the result and score it."""


@app.command("app")
def serve_page() -> int:
    """Serve the page on this machine. GRADIO_SERVER_PORT names another port than 7860."""
    from ui.serve import launch, page

    try:
        built, host = page()
    except ModuleNotFoundError as error:
        print(f"error: {error}. The page needs: pip install 'alloy-merge[app]'", file=sys.stderr)
        return 1
    launch(built, host)
    return 0


if __name__ == "__main__":
    sys.exit(main())

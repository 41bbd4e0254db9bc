"""The same merge run elsewhere: as a command line, as Python, as a job on rented hardware."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from merging.destinations import scheme_of
from merging.rented_machines import timeout
from ui.rented.job import ATTEMPTS, IMAGE
from ui.server.jobs import MergeRequest

FLAVOR = "cpu-xl"  # 16 cores, 124 GB of memory; merging waits for the network, not for a GPU


def destination_elsewhere(request: MergeRequest) -> str:
    """The destination for another machine: of a folder of this server only the name."""
    return request.to if scheme_of(request.to) else Path(request.to).name


def command_line(request: MergeRequest) -> str:
    """A shell script that writes the recipe to a file and runs it."""
    end = "RECIPE"
    while end in request.recipe.splitlines():
        end += "_"
    where = ["--to", destination_elsewhere(request), *_options(request)]
    run = shlex.join(["alloy", "run", "recipe.yml", *where])
    return f"cat > recipe.yml <<'{end}'\n{request.recipe.rstrip()}\n{end}\n{run}\n"


def gguf_command(model: str, request: MergeRequest) -> str:
    """A shell command that makes the same GGUF files of a model.

    Args:
        model: as recipes name it
        request: where the files go, and their types; its recipe does not count
    """
    to, types = destination_elsewhere(request), ",".join(request.gguf)
    options = _options(replace(request, gguf=(), only_gguf=False))
    return shlex.join(["alloy", "gguf", model, "--to", to, f"--types={types}", *options])


def python(request: MergeRequest) -> str:
    """A Python script that runs the merge."""
    plain = "\\" not in request.recipe and '"""' not in request.recipe and not request.recipe.endswith('"')
    text = f'"""\\\n{request.recipe}"""' if plain else repr(request.recipe)
    to = destination_elsewhere(request)
    planned = _chosen({"overwrite=True": request.overwrite, "pull_request=True": request.pull_request})
    planning = "recipe" if request.only_gguf else ", ".join(["recipe", f"to={to!r}", *planned])
    gguf = {f"gguf={list(request.gguf)!r}": bool(request.gguf), "only_gguf=True": request.only_gguf}
    running = ", ".join(
        ["plan", repr(to), *planned, *_chosen({"private=False": not request.private, **gguf})]
    )
    return (
        "from merging import make_plan, read_recipe, run_plan\n\n"
        f"recipe = read_recipe({text})\n"
        f"plan = make_plan({planning})\n"
        f"result = run_plan({running})\n"
        "print(result.location)\n"
    )


def hf_job(request: MergeRequest, space_id: str, commit: str, flavor: str = FLAVOR) -> str:
    """A command that rents a machine on Hugging Face, which installs this Space's Alloy and runs the merge. If it is
    lost, another one continues.

    The commit is the one that made the plan: another one may plan otherwise. Where it is not known (empty), the newest
    is installed. The recipe is passed as base64 in the environment: nothing that a visitor wrote becomes part of the
    shell command.
    """
    run = " ".join(['echo "$RECIPE" | base64 -d | alloy run - --to "$TO"', *_options(request)])
    packed = base64.b64encode(request.recipe.encode()).decode()
    script = (
        "uv pip install -q --system huggingface_hub && "
        f"hf download {space_id} --repo-type space {f'--revision {commit} ' if commit else ''}--local-dir alloy "
        "> /dev/null && cd alloy && "
        f"uv pip install -q --system --torch-backend cpu .{'[gguf]' if request.gguf else ''} && " + run
    )
    return shlex.join(
        ["hf", "jobs", "run", "--flavor", flavor, "--attempts", str(ATTEMPTS),
         "--timeout", f"{timeout(request.seconds) / 60:.0f}m",
         "--secrets", "HF_TOKEN",
         "--env", f"TO={destination_elsewhere(request)}", "--env", f"RECIPE={packed}", IMAGE, "bash", "-c", script]
    )  # fmt: skip


def _chosen(pieces: Mapping[str, bool]) -> list[str]:
    return [piece for piece, chosen in pieces.items() if chosen]


def _options(request: MergeRequest) -> list[str]:
    """The command line's options."""
    return _chosen(
        {
            "--overwrite": request.overwrite,
            "--pull-request": request.pull_request,
            "--public": not request.private,
            f"--gguf={','.join(request.gguf)}": bool(request.gguf),
            "--only-gguf": request.only_gguf,
        }
    )

"""The same merge elsewhere: as a command line, as Python, as a job on rented hardware."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from ui.server.jobs import MergeRequest

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
FLAVOR = "cpu-xl"  # 16 cores, 124 GB of memory; merging waits for the network, not for a GPU
SHORTEST_TIMEOUT, FACTOR = 3600, 4  # seconds; the plan's guess is no better than a factor of two


def destination(request: MergeRequest) -> str:
    """Where the merge goes when somebody else runs it: a folder of this server has only its name there."""
    return request.to if request.to.startswith("hf://") else Path(request.to).name


def command_line(request: MergeRequest) -> str:
    """A shell script that writes the recipe and runs it."""
    end = "RECIPE"
    while end in request.recipe.splitlines():
        end += "_"
    options = ["--overwrite"] * request.overwrite + ["--pull-request"] * request.pull_request
    options += ["--public"] * (not request.private)
    run = shlex.join(["python", "-m", "merging", "run", "recipe.yml", "--to", destination(request), *options])
    return f"cat > recipe.yml <<'{end}'\n{request.recipe.rstrip()}\n{end}\n{run}\n"


def python(request: MergeRequest) -> str:
    """A Python script that does it."""
    plain = "\\" not in request.recipe and '"""' not in request.recipe and not request.recipe.endswith('"')
    text = f'"""\\\n{request.recipe}"""' if plain else repr(request.recipe)
    to = destination(request)
    planned = ", overwrite=True" * request.overwrite + ", pull_request=True" * request.pull_request
    options = planned + ", private=False" * (not request.private)
    return (
        "from merging import make_plan, read_recipe, run_plan\n\n"
        f"recipe = read_recipe({text})\n"
        f"plan = make_plan(recipe, to={to!r}{planned})\n"
        f"result = run_plan(plan, {to!r}{options})\n"
        "print(result.location)\n"
    )


def hf_job(request: MergeRequest, space_id: str) -> str:
    """A command that rents a machine on Hugging Face, which clones this Space and merges with it.

    The recipe travels as base64 in the environment: nothing that a visitor wrote is part of the shell's words.
    """
    packed = base64.b64encode(request.recipe.encode()).decode()
    options = " --overwrite" * request.overwrite + " --pull-request" * request.pull_request
    options += " --public" * (not request.private)
    script = (
        f"git clone -q --depth 1 https://huggingface.co/spaces/{space_id} alloy && cd alloy && "
        "uv pip install -q --system -r requirements.txt && "
        'echo "$RECIPE" | base64 -d | python -m merging run - --to "$TO"' + options
    )
    minutes = max(SHORTEST_TIMEOUT, FACTOR * request.seconds) / 60
    return shlex.join(
        ["hf", "jobs", "run", "--flavor", FLAVOR, "--timeout", f"{minutes:.0f}m", "--secrets", "HF_TOKEN",
         "--env", f"TO={destination(request)}", "--env", f"RECIPE={packed}", IMAGE, "bash", "-c", script]
    )  # fmt: skip

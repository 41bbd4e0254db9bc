"""The same merge elsewhere: the commands are run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.ui.test_cards import shown
from ui.merge.commands import command_line, gguf_command, hf_job, python
from ui.merge.job_card import job_card
from ui.server.jobs import JobStatus, MergeRequest

COMMIT = "0123456789" * 4
RECIPE = """\
merge_method: linear  # "quoted" 'too' $HOME `x` \\
models:
  - model: {0}/a
    parameters: {{weight: 1}}
  - model: {0}/b
    parameters: {{weight: 1}}
"""


@pytest.fixture
def somewhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which `alloy` is ours."""
    (tmp_path / "bin").mkdir()
    alloy = tmp_path / "bin" / "alloy"
    alloy.write_text(f'#!/bin/sh\nexec {sys.executable} -m alloy "$@"\n')
    alloy.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def test_the_command_line_merges(folder: Path, tmp_path: Path, somewhere: dict[str, str]) -> None:
    request = MergeRequest(RECIPE.format(folder) + "RECIPE\n", "x/merged")
    assert "<<'RECIPE_'" in command_line(request)
    request = MergeRequest(RECIPE.format(folder), str(tmp_path / "elsewhere" / "merged"))

    subprocess.run(["bash", "-ec", command_line(request)], cwd=tmp_path, env=somewhere, check=True)

    assert (tmp_path / "recipe.yml").read_text() == request.recipe
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize("ending", ["", "\n", '"', "\\"])
def test_the_python_merges(folder: Path, tmp_path: Path, somewhere: dict[str, str], ending: str) -> None:
    recipe = f"{RECIPE.format(folder).replace(chr(92), '')}# {ending}"
    script = python(MergeRequest(recipe, "merged", private=False, overwrite=True))
    if ending == "":
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=somewhere, check=True)
        assert (tmp_path / "merged" / "model.safetensors").is_file()
    scope: dict[str, Any] = {}
    exec(script.partition("plan =")[0], scope)
    assert scope["recipe"].text == recipe


def test_gguf_files_are_made_elsewhere_as_well() -> None:
    beside = MergeRequest(RECIPE, "hf://me/it", gguf=("Q4_K_M", "Q8_0"))
    alone = MergeRequest(RECIPE, "hf://me/it-GGUF", gguf=("Q4_K_M",), only_gguf=True)

    assert "--to hf://me/it --gguf=Q4_K_M,Q8_0\n" in command_line(beside)
    assert "run_plan(plan, 'hf://me/it', gguf=['Q4_K_M', 'Q8_0'])" in python(beside)
    assert "--gguf=Q4_K_M --only-gguf\n" in command_line(alone)
    assert "make_plan(recipe)" in python(alone)
    assert "--gguf=Q4_K_M --only-gguf" in hf_job(alone, "you/alloy", COMMIT)
    assert ".[gguf] &&" in hf_job(alone, "you/alloy", COMMIT)


def test_the_rented_job_takes_nothing_of_the_visitors_as_code() -> None:
    evil = "merge_method: '$(touch /tmp/x)'\n'; rm -rf /"
    words = shlex.split(
        hf_job(MergeRequest(evil, "hf://me/it", private=True, seconds=7200), "you/alloy", COMMIT)
    )

    assert words[:3] == ["hf", "jobs", "run"]
    assert "480m" in words
    assert "TO=hf://me/it" in words
    assert not [word for word in words if "touch" in word]
    assert (
        f"hf download you/alloy --repo-type space --revision {COMMIT} --local-dir alloy > /dev/null"
        in words[-1]
    )
    assert words[-1].endswith('alloy run - --to "$TO"')
    subprocess.run(["bash", "-n", "-c", words[-1]], check=True)


def test_a_card_shows_them_once_the_job_has_ended() -> None:
    job = JobStatus("id", "x", (), "failed", request=MergeRequest("merge_method: linear", "hf://me/it"))

    assert f"--revision {COMMIT}" in shown(job_card(job, "you/alloy", COMMIT)).text
    assert "--revision" not in shown(job_card(job, "you/alloy")).text
    assert "hf jobs run" not in shown(job_card(job)).text
    assert "alloy run" not in shown(job_card(JobStatus("id", "x", (), "waiting", request=job.request))).text


def test_gguf_files_of_any_model_are_made_elsewhere_too() -> None:
    plain = MergeRequest(to="hf://me/it-GGUF", gguf=("Q4_K_M", "Q8_0"))
    other = MergeRequest(to="/space/merged/it-GGUF", gguf=("BF16",), private=False, overwrite=True)

    command = gguf_command("you/it@main", plain)
    assert command == "alloy gguf you/it@main --to hf://me/it-GGUF --types=Q4_K_M,Q8_0"
    command = gguf_command("a b; rm *", other)
    assert command == "alloy gguf 'a b; rm *' --to it-GGUF --types=BF16 --overwrite --public"

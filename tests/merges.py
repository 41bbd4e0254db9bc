"""What tests of whole merges share: a recipe, the merge in one call, a run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from merging import Plan, make_plan, read_recipe, run_plan
from tests.hub import Hub

ROOT = Path(__file__).parent.parent


def ties(place: Path | str) -> str:
    """A recipe over the models that lie in a folder, or belong to a user."""
    models = [{"model": f"{place}/{name}", "parameters": {"weight": 0.6}} for name in ("a", "b")]
    parameters = {"density": [0.2, 0.9]}
    recipe = {
        "merge_method": "ties",
        "base_model": f"{place}/base",
        "models": models,
        "parameters": parameters,
    }
    return yaml.safe_dump(recipe)


def merged(
    text: str, to: Path | str, shard_size: int = 150_000, token: str | None = None, **options: Any
) -> Plan:
    """Plan and merge; returns the plan, which has no problems."""
    plan = make_plan(read_recipe(text), str(to), shard_size=shard_size, token=token)
    assert plan.problems == ()
    run_plan(plan, str(to), token=token, **options)
    return plan


def files(folder: Path) -> dict[str, bytes]:
    """The content of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Wait for nothing; returns the seconds that would have been waited for, in order."""
    seconds: list[float] = []
    monkeypatch.setattr("merging.checkpoints.hub.time.sleep", seconds.append)
    monkeypatch.setattr(
        "merging.checkpoints.hub.HubRepository._pause", lambda _, pause: seconds.append(pause)
    )
    return seconds


def weights(hub: Hub, repo: str) -> dict[str, bytes]:
    """The content of the weight files that a model on the Hub shows."""
    names = hub.repo(repo).files() if repo in hub.repos else {}
    return {name: hub.read(repo, name) for name in names if name.endswith(".safetensors")}


def running(arguments: list[str], hub: Hub, token: str) -> subprocess.Popen[bytes]:
    """A run of the command line that has begun."""
    env = {**os.environ, "HF_TOKEN": token, "HF_ENDPOINT": hub.endpoint, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "merging", "run", *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.02)

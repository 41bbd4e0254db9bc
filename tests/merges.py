"""What tests of whole merges share: a recipe, the merge in one call, a run in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import yaml

from merging import Cancelled, Plan, Progress, make_plan, read_recipe, run_plan
from merging.__main__ import main
from merging.destinations import xet
from merging.planning import make
from tests.hub import Hub
from tests.hub.faults import Fault

# Seconds within which even a slow machine ends a run that is not to wait for a host, which stalls for STALLED seconds.
SOON, STALLED = 60.0, 120.0


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


def weight_files(folder: Path) -> dict[str, bytes]:
    """The content of a folder's weight files."""
    return {name: data for name, data in files(folder).items() if name.endswith(".safetensors")}


def cancelled_at(fault: Fault, plan: Plan, to: str, token: str) -> None:
    """A run that is cancelled as soon as it meets a fault, and ends before that does."""
    cancel = threading.Event()
    stopped: list[float] = []

    def watch(progress: Progress) -> None:
        if fault.hits and not stopped:
            stopped.append(time.monotonic())
            cancel.set()

    with pytest.raises(Cancelled):
        run_plan(plan, to, token=token, on_progress=watch, cancel=cancel)

    assert time.monotonic() - stopped[0] < SOON


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Wait for nothing; returns the seconds that would have been waited for, in order."""
    seconds: list[float] = []
    monkeypatch.setattr("checkpoints.repositories.retry.time.sleep", seconds.append)
    monkeypatch.setattr(
        "checkpoints.repositories.hub.HubRepository._pause", lambda _, pause: seconds.append(pause)
    )
    return seconds


def noted(hub: Hub) -> set[str]:
    """The shards in the journal of a merge to alice/out, as paths."""
    repo = hub.repos.get("alice/out")
    names = (name for ref in [*repo.refs] for name in repo.files(ref)) if repo else ()
    return {name for name in names if name.startswith("merge-")}


def weights(hub: Hub, repo: str) -> dict[str, bytes]:
    """The content of the weight files that a model on the Hub shows."""
    names = hub.repo(repo).files() if repo in hub.repos else {}
    return {name: hub.read(repo, name) for name in names if name.endswith(".safetensors")}


# Its processes are forked from one that has imported everything once: alone, that takes each of them seconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["merging.__main__", "merging.engine.blocks", "merging.destinations.hub", "tests.merges"]
)


class Run:
    """A run of the command line that has begun, in a process of its own; one that streams has no memory to spare."""

    def __init__(self, arguments: list[str], token: str, *, streams: bool = False):
        self._told, told = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_run, args=(arguments, token, told, streams), daemon=False)
        self._process.start()
        told.close()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def end(self, seconds: float = 60) -> tuple[int, bytes]:
        """Wait for the end; returns the exit status and what was told on stderr."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, "waited too long"
        with os.fdopen(os.dup(self._told.fileno()), "rb") as told:
            return self._process.exitcode, told.read()


def _run(arguments: list[str], token: str, told: Connection, streams: bool) -> None:
    os.dup2(told.fileno(), sys.stderr.fileno())
    told.close()
    os.environ["HF_TOKEN"] = token
    if streams:
        from huggingface_hub import constants  # here: it reads its address when it is imported

        constants.HF_HUB_DISABLE_XET = False
        make.free_memory = lambda: 0
        xet.held = lambda streams: 0
    sys.exit(main(["run", *arguments]))


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.02)

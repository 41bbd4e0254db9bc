"""What is special about processes: when they are used, and what becomes of one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from merging import MergeError, Progress, make_plan, read_recipe, run_plan
from merging.engine.processes import Processes, can_fork
from tests import ROOT
from tests.merges import files, ties
from tests.merging.engine.conformance import instead_of_merging, planned

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


def test_a_process_that_is_killed_is_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, here = planned(folder, tmp_path / "out"), os.getpid()
    others = set(psutil.Process().children())  # a server of other tests, that lives as long as they

    def kill(check: object) -> None:
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)

    instead_of_merging(monkeypatch, plan.shards[3].tensors[0].name, kill)
    with pytest.raises(MergeError, match=r"killed .SIGKILL.*memory"):
        run_plan(plan, str(tmp_path / "out"), workers=2, on=Processes())

    assert not any(tmp_path.iterdir())
    assert set(psutil.Process().children()) <= others


def test_progress_is_no_faster_than_a_bar_is_drawn(folder: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    plan = make_plan(read_recipe(ties(folder)), shard_size=1)
    assert len(plan.shards) > 30

    result = run_plan(plan, str(tmp_path / "out"), workers=2, on=Processes(), on_progress=seen.append)

    assert len(seen) < 10 + result.seconds * 10


def test_not_beside_other_threads() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert not can_fork()
    finally:
        end.set()
        thread.join()


def test_the_same_bytes_as_threads(folder: Path, tmp_path: Path) -> None:
    """This process has threads (its Hub is one), a fresh one has none, and chooses processes by itself."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(ties(folder))
    plan = make_plan(read_recipe(ties(folder)), str(tmp_path / "threads" / "out"), shard_size=150_000)
    run_plan(plan, str(tmp_path / "threads" / "out"), workers=2)
    code = """
import sys, merging.engine.processes as processes
from merging.__main__ import main
ran, pool = [], processes.ProcessPool
processes.ProcessPool = lambda *args: (ran.append(args[2]), pool(*args))[1]
status = main(sys.argv[1:])
assert ran == [3], ran
sys.exit(status)
"""
    command = [
        "run",
        str(recipe),
        "--to",
        str(tmp_path / "forked" / "out"),
        "--shard-size",
        "150kB",
        "--workers",
        "3",
    ]

    subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, check=True)

    assert files(tmp_path / "forked" / "out") == files(tmp_path / "threads" / "out")

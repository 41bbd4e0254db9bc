"""Searches whose processes are killed: they continue as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from searching import plan_search, read_space, run_search
from searching.records import Records
from tests import ROOT
from tests.forks import forked, status
from tests.searching.synthetic import Score, documents, plan, space
from tests.searching.test_run import lines, report
from tests.searching.test_search_of_models import GIVEN
from tests.searching.test_search_of_models import space as space_of

# Seconds after which a process that neither ends nor scores is given up.
PATIENCE = 120


def tell(pipe: int, _: tuple[float, float]) -> None:
    """Say that a recipe is about to be scored."""
    os.write(pipe, b".")


def searched(folder: Path, by: str, scores: int) -> int:
    """Search in a process that is killed when it begins its next score after a number of them; returns its status."""
    ours, theirs = os.pipe()

    def search() -> bool:
        os.close(ours)
        score = Score(trap=partial(tell, theirs))
        run_search(plan(score, space(by, trials=9), documents(12, 5, 8)), folder)
        return True

    child = forked(search, PATIENCE)
    os.close(theirs)
    if all(os.read(ours, 1) for _ in range(scores)):  # nothing is read once it has ended
        os.kill(child, signal.SIGKILL)
    os.close(ours)
    return status(child)


@pytest.mark.parametrize("by", ["tpe", "cmaes", "grid"])
def test_a_search_that_is_killed_again_and_again_ends_as_if_undisturbed(tmp_path: Path, by: str) -> None:
    run_search(plan(Score(), space(by, trials=9), documents(12, 5, 8)), tmp_path / "whole")
    drawn = random.Random(by)

    statuses = []
    while 0 not in statuses:
        statuses.append(searched(tmp_path / "killed", by, drawn.randint(1, 4)))

    assert len(statuses) > 4 and set(statuses[:-1]) == {-signal.SIGKILL}
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert report(tmp_path / "killed") == report(tmp_path / "whole")


@pytest.mark.nightly
@pytest.mark.parametrize("by", ["gradient", "tpe"])
def test_a_command_that_is_killed_continues_as_if_undisturbed(family: Path, tmp_path: Path, by: str) -> None:
    (tmp_path / "space.yaml").write_text(space_of(family, by, 5))
    (tmp_path / "words.txt").write_text("\n\n".join(GIVEN["words.txt"]))
    to = tmp_path / "killed"
    command = [sys.executable, "-m", "searching", "run", str(tmp_path / "space.yaml"), "--to", str(to)]
    settings = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}

    for word in ("parent", "trial 1 ", "trial 3 "):
        with subprocess.Popen(command, stderr=subprocess.PIPE, **settings) as running:  # type: ignore[call-overload]
            assert any(line.startswith(word) for line in running.stderr)
            running.kill()
        assert running.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True, timeout=600, **settings)  # type: ignore[call-overload]

    run_search(plan_search(read_space(space_of(family, by, 5)), texts=GIVEN), tmp_path / "whole")
    killed, whole = (Records(folder / "trials.jsonl") for folder in (to, tmp_path / "whole"))
    assert killed.asked == whole.asked
    assert {key: one.figures for key, one in killed.scored.items()} == {
        key: one.figures for key, one in whole.scored.items()
    }
    assert (to / "best.yaml").read_text() == (tmp_path / "whole" / "best.yaml").read_text()

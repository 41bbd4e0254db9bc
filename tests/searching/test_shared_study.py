"""Searches that several machines run together, by a study in a database; each has a folder of its own."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

from evaluation import Cancelled
from searching import SearchError, SearchProgress, join_search, run_search
from searching.records import Records
from tests.forks import forked, status
from tests.searching.synthetic import Score, documents, plan, space
from tests.searching.test_run import lines

TRIALS = 8
PATIENCE = 120


def storage(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def made(by: str = "tpe", trials: int = TRIALS, score: Score | None = None) -> Any:
    return plan(score or Score(), space(by, trials), documents(12, 5, 8))


def stopped_after(count: int, folder: Path, url: str, **fields: Any) -> None:
    """A search that is stopped when it has scored a number of trials."""
    cancel = threading.Event()

    def heard(progress: SearchProgress) -> None:
        if progress.done == count:
            cancel.set()

    with pytest.raises(Cancelled):
        run_search(made(**fields), folder, storage=url, on_trial=heard, cancel=cancel)


def fail_everywhere(at: tuple[float, float]) -> None:
    """At every trial that is no baseline."""
    if at[0] not in (0.0, 0.5, 1.0):
        raise ValueError("a score that raises")


def asked(folder: Path) -> Records:
    return Records(folder / "trials.jsonl")


@pytest.mark.parametrize(
    "by",
    ["tpe", *(pytest.param(by, marks=pytest.mark.nightly) for by in ("cmaes", "random", "qmc", "nsga2"))],
)
def test_what_a_machine_that_joined_has_scored_is_in_the_records_of_the_first(
    tmp_path: Path, by: str
) -> None:
    url, first, second = storage(tmp_path), tmp_path / "first", tmp_path / "second"
    stopped_after(4, first, url, by=by)

    # It takes no more once the number of trials is reached.
    assert join_search(made(by), second, url) == TRIALS - 4
    result = run_search(made(by), first, storage=url)

    # The fifth trial had been asked for when the first machine was stopped.
    assert result.report.trials["ended"] == TRIALS + 1
    whole, joined = asked(first), asked(second)
    assert [one.elsewhere for _, one in sorted(whole.asked.items())] == [False] * 5 + [True] * 4
    assert len({json.dumps(dict(one.point)) for one in whole.asked.values()}) >= TRIALS
    by_number = {one.shared: f"trial {number}" for number, one in joined.asked.items()}
    for number, one in list(whole.asked.items())[5:]:
        scored = whole.scored[f"trial {number}", "search"]
        assert scored.figures == joined.scored[by_number[one.shared], "search"].figures
    assert not (second / "report.json").exists()
    assert {part for _, part in joined.scored} == {"search"}


def test_processes_share_a_search(tmp_path: Path) -> None:
    """One that joins while the first one runs: each trial is scored by one of them."""
    url, first, second = storage(tmp_path), tmp_path / "first", tmp_path / "second"
    children = []

    def heard(progress: SearchProgress) -> None:
        if progress.scored.who == "trial 0":
            children.append(forked(lambda: join_search(made(trials=20), second, url) >= 0, PATIENCE))

    result = run_search(made(trials=20), first, storage=url, on_trial=heard)

    assert [status(child) for child in children] == [0]
    numbers = [one.shared for one in asked(first).asked.values()]
    assert len(numbers) == len(set(numbers)) and result.report.trials["ended"] >= 20
    here = {one.shared for one in asked(first).asked.values() if not one.elsewhere}
    there = {one.shared for one in asked(second).asked.values() if not one.elsewhere}
    assert not here & there


def test_records_are_the_truth_where_the_database_is_lost(tmp_path: Path) -> None:
    url, folder = storage(tmp_path), tmp_path / "search"
    stopped_after(4, folder, url)
    (tmp_path / "study.db").unlink()

    result = run_search(made(), folder, storage=url)

    assert result.report.trials["ended"] == TRIALS
    who = [(one["who"], one["part"]) for one in lines(folder) if "who" in one]
    assert len(who) == len(set(who))  # nothing was scored twice
    [study] = optuna.get_all_study_summaries(url)
    trials = optuna.load_study(study_name=study.study_name, storage=url).trials
    points = {number: dict(one.point) for number, one in asked(folder).asked.items()}
    numbers = {one.shared: number for number, one in asked(folder).asked.items()}
    assert [points[numbers[trial.number]] for trial in trials] == [trial.params for trial in trials]


def test_a_search_continues_without_its_database(tmp_path: Path) -> None:
    stopped_after(4, tmp_path / "search", storage(tmp_path))

    assert run_search(made(), tmp_path / "search").report.trials["ended"] == TRIALS


def test_a_trial_of_a_killed_process_is_scored_again(tmp_path: Path) -> None:
    """It was asked for, and its answer is not in the records."""
    url, folder = storage(tmp_path), tmp_path / "search"
    stopped_after(4, folder, url)
    rows = (folder / "trials.jsonl").read_bytes().splitlines(keepends=True)
    assert b'"who": "trial 3"' in rows[-2] and b'"ask": 4' in rows[-1]
    (folder / "trials.jsonl").write_bytes(b"".join(rows[:-2]))

    result = run_search(made(), folder, storage=url)

    assert result.report.trials["ended"] == TRIALS and not asked(folder).pending()


def test_a_failed_trial_of_another_machine_is_no_candidate(tmp_path: Path) -> None:
    url, first, second = storage(tmp_path), tmp_path / "first", tmp_path / "second"
    stopped_after(2, first, url, by="random")
    failing = made("random", score=Score(trap=fail_everywhere))
    join_search(failing, second, url)

    result = run_search(made("random"), first, storage=url)

    assert result.report.trials["failed"] == TRIALS - 2
    assert result.report.winner in ("trial 0", "trial 1", "trial 2")


def test_a_search_that_has_ended_takes_no_more(tmp_path: Path) -> None:
    url = storage(tmp_path)
    run_search(made(trials=4), tmp_path / "first", storage=url)

    assert join_search(made(trials=4), tmp_path / "second", url) == 0


def test_another_space_is_another_search(tmp_path: Path) -> None:
    url = storage(tmp_path)
    run_search(made(trials=4), tmp_path / "first", storage=url)

    with pytest.raises(SearchError, match="The database has no search of this space"):
        join_search(made(trials=5), tmp_path / "second", url)


@pytest.mark.parametrize("by", ["gradient", "lbfgs", "grid"])
def test_ways_that_follow_one_order_are_refused(tmp_path: Path, by: str) -> None:
    with pytest.raises(SearchError, match="Machines cannot share a search by"):
        run_search(made(by), tmp_path, storage=storage(tmp_path))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("somewhere", "no URL of a database"),
        (
            "postgresql://me:s3cret@127.0.0.1:1/x",
            "The database postgresql://me:\\*\\*\\*@127.0.0.1:1/x could not be",
        ),
        ("sqlite:////nowhere/study.db", "The database sqlite:////nowhere/study.db could not be used"),
    ],
)
def test_a_database_that_cannot_be_used(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(SearchError, match=said) as found:
        run_search(made(), tmp_path, storage=url)

    assert "s3cret" not in str(found.value) and found.value.__cause__ is None


def test_a_database_that_fails_loses_nothing(tmp_path: Path) -> None:
    url, folder = storage(tmp_path), tmp_path / "search"

    def heard(progress: SearchProgress) -> None:
        if progress.done == 5:
            with sqlite3.connect(tmp_path / "study.db") as database:
                database.execute("DROP TABLE trial_user_attributes")

    with pytest.raises(SearchError, match="could not be used"):
        run_search(made(), folder, storage=url, on_trial=heard)
    (tmp_path / "study.db").unlink()

    assert run_search(made(), folder, storage=url).report.trials["ended"] == TRIALS
    who = [(one["who"], one["part"]) for one in lines(folder) if "who" in one]
    assert len(who) == len(set(who))


def test_no_file_names_the_database(tmp_path: Path) -> None:
    """Its URL may have a password."""
    run_search(made(trials=4), tmp_path / "search", storage=storage(tmp_path))

    held = b"".join(path.read_bytes() for path in (tmp_path / "search").iterdir())
    assert b"sqlite" not in held and b"study.db" not in held

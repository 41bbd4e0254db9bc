"""Searches from beginning to end on synthetic scores: what is scored, kept, continued and said."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoints.problems import CheckpointError
from evaluation import Cancelled
from searching import SearchError, SearchProgress, read_space, run_search
from searching.data import Data
from searching.plan import measured
from searching.records import Records, Scored
from searching.run import check_folder
from searching.split import Document, digest
from tests.searching.synthetic import (
    FakeModel,
    Score,
    die_at,
    die_once,
    documents,
    fail_at,
    lose_access,
    plan,
    space,
    weights,
)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The records, without times."""
    found = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return [{key: one[key] for key in one if key not in ("seconds", "making")} for one in found]


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return {key: found[key] for key in found if key != "seconds"}


def test_an_optimum_is_found_and_reported(tmp_path: Path) -> None:
    result = run_search(plan(Score(), space(trials=40)), tmp_path)

    assert result.report.ending == "better"
    assert [one.verdict for one in result.report.comparisons] == ["better"] * 5
    assert result.best and weights(result.best) == pytest.approx((0.9, 0.8), abs=0.25)
    assert (tmp_path / "best.yaml").read_text() == result.best.text
    assert "better than the plain average" in str(result.report.verdict)
    gains = result.report.gains
    assert set(gains) == {"search", "choice", "report"} and min(gains.values()) > 0.5


def test_baselines_come_first_and_the_report_part_last_and_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_search(plan(Score(log=log), space(trials=12)), tmp_path / "search")

    scored = [line.rsplit(" ", 2) for line in log.read_text().splitlines()]
    parts = [part for _, part, _ in scored]
    first = next(number for number, part in enumerate(parts) if part == "report")
    assert set(parts[first:]) == {"report"}
    assert len(set(map(tuple, scored))) == len(scored)  # no recipe on a document twice
    records = [one for one in lines(tmp_path / "search") if "who" in one]
    assert [one["who"] for one in records[:5]] == [
        "given",
        "average",
        "parent org/base",
        "parent org/math",
        "parent org/korean",
    ]
    on_report = [one["who"] for one in records if one["part"] == "report"]
    assert len(on_report) == len(set(on_report)) == 6


def test_the_first_trials_are_answered_from_the_baselines(tmp_path: Path) -> None:
    run_search(plan(Score(), space(trials=4)), tmp_path)

    records = Records(tmp_path / "trials.jsonl")
    assert dict(records.asked[0].point) == {"org/math.weight": 0.5, "org/korean.weight": 0.2}
    assert dict(records.asked[1].point) == {"org/math.weight": 0.5, "org/korean.weight": 0.5}
    for number, who in enumerate(("given", "average")):
        assert records.scored[f"trial {number}", "search"].figures == records.scored[who, "search"].figures


def test_worse_trials_are_stopped_early(tmp_path: Path) -> None:
    data = documents(search=80)
    whole = run_search(plan(Score(noise=0.01), space("nsga2", trials=30), data), tmp_path / "whole")
    log = tmp_path / "log"
    found = run_search(plan(Score(noise=0.01, log=log), space(trials=30), data), tmp_path / "stopped")

    assert whole.report.trials["stopped"] == 0
    assert found.report.trials["stopped"] >= 10
    searched = sum(" search " in line for line in log.read_text().splitlines())
    assert searched < 0.67 * 80 * (30 + 3)
    assert found.report.ending == "better"


@pytest.mark.parametrize("seed", [0, 1])
def test_stopping_early_saves_a_third_and_finds_the_same_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Points drawn at random are the same, whatever is said of those before."""
    made = plan(Score(noise=0.01, log=tmp_path / "stopped"), space("random", 30, seed), documents(search=80))
    found = run_search(made, tmp_path / "a")
    monkeypatch.setattr("searching.objective.is_worse", lambda *_: False)
    made = plan(Score(noise=0.01, log=tmp_path / "whole"), space("random", 30, seed), documents(search=80))
    whole = run_search(made, tmp_path / "b")

    stopped, all_of_them = ((tmp_path / name).read_text().count(" search ") for name in ("stopped", "whole"))
    assert stopped < 2 / 3 * all_of_them
    assert found.report.winner == whole.report.winner
    assert (found.report.trials["stopped"] > 10, whole.report.trials["stopped"]) == (True, 0)


@pytest.mark.parametrize("by", ["tpe", "cmaes", "random", "qmc", "grid", "nsga2"])
def test_a_killed_search_continues_as_if_undisturbed(tmp_path: Path, by: str) -> None:
    made = plan(Score(), space(by, trials=9), documents(12, 5, 8))
    whole = tmp_path / "whole"
    run_search(made, whole)
    content = (whole / "trials.jsonl").read_bytes()
    rows = content.splitlines(keepends=True)
    cuts = [len(b"".join(rows[:-2])) + place for place in range(1, len(rows[-2]) + len(rows[-1]), 60)]
    cuts += [len(b"".join(rows[:number])) + extra for number in (3, 8, 13, 16, 20) for extra in (0, 1, 40)]

    for cut in cuts if by == "tpe" else cuts[-9::3]:
        again = tmp_path / f"cut at {cut}"
        again.mkdir()
        for name in ("space.yaml", "parents.json", "data.json"):
            (again / name).write_bytes((whole / name).read_bytes())
        (again / "trials.jsonl").write_bytes(content[:cut])
        run_search(made, again)
        assert lines(again) == lines(whole), cut
        assert report(again) == report(whole), cut


def test_the_same_seed_gives_the_same_report(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_search(plan(Score(), space(trials=8)), tmp_path / name)
    run_search(plan(Score(), space(trials=8, seed=1)), tmp_path / "other")

    assert report(tmp_path / "one") == report(tmp_path / "two")
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert lines(tmp_path / "one") != lines(tmp_path / "other")


def test_a_finished_search_scores_nothing_more(tmp_path: Path) -> None:
    run_search(plan(Score(), space(trials=8)), tmp_path)
    before = (tmp_path / "trials.jsonl").read_bytes(), report(tmp_path)

    run_search(plan(Score(trap=partial(fail_at, (0.5, 0.5))), space(trials=8)), tmp_path)

    assert ((tmp_path / "trials.jsonl").read_bytes(), report(tmp_path)) == before


def test_another_space_other_data_and_other_parents_are_refused_by_name(tmp_path: Path) -> None:
    run_search(plan(Score(), space(trials=3)), tmp_path)

    with pytest.raises(SearchError, match="the space changed"):
        run_search(plan(Score(), space(trials=4)), tmp_path)
    with pytest.raises(SearchError, match=r"the data changed \(synthetic.py:score\)"):
        run_search(plan(Score(), space(trials=3), documents(report=31)), tmp_path)
    (tmp_path / "parents.json").write_text('{"org/math": "another commit"}')
    with pytest.raises(SearchError, match=r"the parents changed \(org/math\)"):
        run_search(plan(Score(), space(trials=3)), tmp_path)


def test_a_score_that_raises_fails_the_trial_alone(tmp_path: Path) -> None:
    made = plan(Score(trap=partial(fail_at, (0.5, 0.5))), space(trials=8))

    result = run_search(made, tmp_path)

    assert result.report.trials == {"ended": 8, "stopped": result.report.trials["stopped"], "failed": 1}
    failed = [one for one in lines(tmp_path) if one.get("state") == "failed"]
    assert {one["problem"]["code"] for one in failed} == {"python-score"}
    assert result.best


def test_a_score_that_is_not_finite_fails_the_trial_alone(tmp_path: Path) -> None:
    class Infinite(Score):
        def __call__(self, model: FakeModel, documents: Any) -> list[float]:
            found = super().__call__(model, documents)
            return [float("nan")] * len(found) if weights(model.recipe)[1] > 0.6 else found  # type: ignore[arg-type]

    result = run_search(plan(Infinite(), space(trials=15)), tmp_path)

    assert result.report.trials["failed"] > 0 and result.best
    assert weights(result.best)[1] <= 0.6


@pytest.mark.parametrize("damage", [b"garbage", b"\x00" * 40, b"", b"[]", b"{}", b'{"ask": 3}'])
def test_records_that_are_damaged_are_refused_by_line(tmp_path: Path, damage: bytes) -> None:
    made = plan(Score(), space(trials=3), documents(12, 5, 8))
    run_search(made, tmp_path)
    file = tmp_path / "trials.jsonl"
    rows = file.read_bytes().splitlines(keepends=True)
    whole = lines(tmp_path)
    file.write_bytes(b"".join([*rows[:3], damage, b"\n", *rows[4:]]))

    with pytest.raises(SearchError, match=r"Line 4 of .*trials\.jsonl is damaged"):
        run_search(made, tmp_path)

    assert len(file.read_bytes().splitlines()) == len(rows)  # nothing is lost
    file.write_bytes(b"".join(rows[:3]))  # what the sentence advises
    run_search(made, tmp_path)
    assert lines(tmp_path) == whole


@pytest.mark.parametrize("name", ["data.json", "parents.json"])
def test_other_files_that_are_damaged_are_refused(tmp_path: Path, name: str) -> None:
    made = plan(Score(), space(trials=3), documents(12, 5, 8))
    run_search(made, tmp_path)
    (tmp_path / name).write_text("{")

    with pytest.raises(SearchError, match="holds another search"):
        run_search(made, tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for place in ("file", "file/below"):
        with pytest.raises(SearchError, match="is a file; the result is a folder"):
            run_search(plan(Score(), space(trials=3), documents(12, 5, 8)), tmp_path / place)


def test_a_function_without_figures_is_said_before_the_first_trial(tmp_path: Path) -> None:
    def nothing(model: FakeModel, documents: Any = ()) -> list[float]:
        return []

    text = space(trials=5).text.replace(", text: text.txt", "")
    made = plan(nothing, read_space(text), Data())  # type: ignore[arg-type]

    with pytest.raises(SearchError, match="not a finite number"):
        run_search(made, tmp_path)
    assert [one["who"] for one in lines(tmp_path)] == ["given"]  # nothing else would do better


def test_a_parent_that_is_lost_stops_the_search_and_loses_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "signed out"
    ended: list[SearchProgress] = []

    def watch(progress: SearchProgress) -> None:
        ended.append(progress)
        if len(ended) == 8:
            marker.touch()

    class Lost(Score):
        def __call__(self, model: FakeModel, documents: Any) -> list[float]:
            lose_access(marker, (0, 0))
            return super().__call__(model, documents)

    class Model(FakeModel):
        def update(self, recipe: Any) -> None:
            lose_access(marker, (0, 0))
            super().update(recipe)

    with pytest.raises(CheckpointError, match="can no longer be read"):
        run_search(plan(Score(), space(trials=9), open=Model), tmp_path / "a", on_trial=watch)
    kept = len([one for one in lines(tmp_path / "a") if "who" in one])
    marker.unlink()
    run_search(plan(Score(), space(trials=9), open=Model), tmp_path / "a")
    run_search(plan(Score(), space(trials=9)), tmp_path / "b")

    assert kept == 8
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_a_stopped_search_leaves_a_report_without_the_report_part(tmp_path: Path) -> None:
    cancel = threading.Event()

    def stop(progress: SearchProgress) -> None:
        if progress.done == 4:
            cancel.set()

    made = plan(Score(), space(trials=12))
    with pytest.raises(Cancelled):
        run_search(made, tmp_path, on_trial=stop, cancel=cancel)

    assert report(tmp_path)["ending"] == "unfinished"
    assert (tmp_path / "best.yaml").exists()
    assert not any(one.get("part") == "report" for one in lines(tmp_path))
    finished = run_search(made, tmp_path, finish=True)
    assert finished.report.trials["ended"] == 4 and finished.report.ending in ("better", "none", "worse")


class Guarded(Score):
    """A score whose documents of a guard count the first weight."""

    def __call__(self, model: FakeModel, documents: Any) -> list[float]:
        assert model.recipe
        if documents and documents[0].startswith("guard"):
            return [-weights(model.recipe)[0]] * len(documents)
        return super().__call__(model, documents)


def guarded_documents() -> Data:
    both = [
        Document(f"guard {part} {one}", part, digest(f"{part} {one}"))  # type: ignore[arg-type]
        for part in ("search", "choice", "report")
        for one in range(6)
    ]
    return Data({**documents().documents, "guard.py:score": tuple(both)})


def test_guards_are_kept(tmp_path: Path) -> None:
    """What the guard counts grows with the first weight, and may grow by 0.7 of it: the optimum is out of reach."""
    more = ", {python: guard.py:score, text: guard.txt, at_least: base - 0.7}"
    guarded = space(trials=40, more=more)

    result = run_search(plan(Guarded(), guarded, guarded_documents()), tmp_path)

    assert result.best and 0.4 < weights(result.best)[0] <= 0.7
    assert not result.report.broken and result.report.ending == "better"


def test_a_limit_may_be_that_of_a_parent(tmp_path: Path) -> None:
    """The guard counts the first weight. The second parent has none of it, so at most 0.3 is allowed."""
    more = ", {python: guard.py:score, text: guard.txt, at_least: org/korean - 0.3}"

    result = run_search(plan(Guarded(), space(trials=40, more=more), guarded_documents()), tmp_path)

    assert result.best and weights(result.best)[0] <= 0.3


def test_no_trial_that_keeps_the_guards(tmp_path: Path) -> None:
    more = ", {python: guard.py:score, text: guard.txt, at_least: 1000}"
    data = documents()
    data = Data({**data.documents, "guard.py:score": data.documents["synthetic.py:score"]})

    result = run_search(plan(Score(), space(trials=5, more=more), data), tmp_path)

    assert result.best is None and result.report.ending == "no-winner"
    assert "No trial kept the limits" in (tmp_path / "report.md").read_text()


def test_few_documents_in_the_report_part_say_so(tmp_path: Path) -> None:
    result = run_search(plan(Score(), space(trials=5), documents(report=4)), tmp_path)

    assert result.report.ending == "short" and result.report.advice == "average"


def test_several_workers_score_each_trial_once(tmp_path: Path) -> None:
    result = run_search(plan(Score(), space(trials=10), workers=2), tmp_path)

    records = Records(tmp_path / "trials.jsonl")
    assert sorted(records.asked) == list(range(10)) and not records.pending()
    who = [(one["who"], one["part"]) for one in lines(tmp_path) if "who" in one]
    assert len(who) == len(set(who))
    assert result.report.trials["ended"] == 10


def test_the_trial_of_a_lost_worker_is_scored_by_another(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    made = plan(Score(trap=partial(die_once, marker)), space(trials=6), workers=2)

    result = run_search(made, tmp_path / "search")

    assert marker.exists()
    assert result.report.trials == {**result.report.trials, "ended": 6, "failed": 0}


def test_a_trial_that_ends_every_worker_fails(tmp_path: Path) -> None:
    made = plan(Score(trap=partial(die_at, 0.9)), space("grid", trials=9), workers=2)

    result = run_search(made, tmp_path)

    assert result.report.trials["ended"] == 9
    codes = [one["problem"]["code"] for one in lines(tmp_path) if one.get("state") == "failed"]
    assert set(codes) <= {"worker-lost"}


def test_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    made = plan(Score(), space(trials=3))

    def again(progress: SearchProgress) -> None:
        with pytest.raises(SearchError, match="Another process is searching"):
            run_search(made, tmp_path)

    run_search(made, tmp_path, on_trial=again)


def test_time_ends_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves on by a second with each score."""
    now = [0]
    monkeypatch.setattr("searching.run.time", SimpleNamespace(monotonic=lambda: now[0]))

    def tick(_: tuple[float, float]) -> None:
        now[0] += 1

    text = space(trials=50).text.replace("trials: 50", "trials: 50, minutes: 0.5")

    result = run_search(plan(Score(trap=tick), read_space(text)), tmp_path)

    assert 0 < result.report.trials["ended"] < 50


class NearMath(Score):
    """The first model alone is best: the second makes it worse."""

    def __call__(self, model: FakeModel, documents: Any) -> list[float]:
        assert model.recipe
        one, other = weights(model.recipe)
        return [-((one - 0.9) ** 2) - other**2] * len(documents)


@pytest.mark.parametrize(
    ("score", "start"),
    [
        (Score(noise=0.0), {"org/math.weight": 0.5, "org/korean.weight": 0.5}),
        (NearMath(), {"org/math.weight": 1.0, "org/korean.weight": 0.0}),
    ],
)
@pytest.mark.parametrize("cut", [None, 6, 8, 10])
def test_a_search_starts_from_a_greedy_soup(
    tmp_path: Path, score: Score, start: dict[str, float], cut: int | None
) -> None:
    """Also where it was interrupted while the soup was made."""
    text = space(trials=6).text.replace("  by:", "  starts: [greedy_soup]\n  by:")
    made = plan(score, read_space(text))
    run_search(made, tmp_path / "whole")
    rows = (tmp_path / "whole" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    if cut is not None:
        (tmp_path / "cut").mkdir()
        check_folder(made, tmp_path / "cut")
        (tmp_path / "cut" / "trials.jsonl").write_bytes(b"".join(rows[:cut]))
        run_search(made, tmp_path / "cut")
        assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
        assert report(tmp_path / "cut") == report(tmp_path / "whole")

    records = Records(tmp_path / "whole" / "trials.jsonl")
    assert start in [asked.point for asked in list(records.asked.values())[:3]]
    soups = [one["who"] for one in lines(tmp_path / "whole") if one.get("who", "").startswith("soup")]
    assert soups == ["soup 1+2"]
    assert "start greedy_soup" in report(tmp_path / "whole")["figures"]["synthetic.py:score"]


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the clock of searches says, in seconds: it moves when the one number is changed."""
    now = [0]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr("searching.run.time", clock)
    monkeypatch.setattr("searching.workers.time", clock)
    return now


def test_the_best_is_judged_when_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves on by a second with each score, whatever is scored: of 40, the last dozen are reserved."""
    now = stopped_clock(monkeypatch)

    def tick(_: tuple[float, float]) -> None:
        now[0] += 1

    text = space("random", trials=50).text.replace("trials: 50", f"trials: 50, minutes: {40 / 60}")

    result = run_search(plan(Score(trap=tick), read_space(text)), tmp_path)

    assert 10 < result.report.trials["ended"] < 40 and now[0] <= 40
    assert result.report.ending != "no-winner"


def test_loading_the_models_takes_none_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves on by an hour while they are loaded, and by a second with each score."""
    now = stopped_clock(monkeypatch)

    def tick(_: tuple[float, float]) -> None:
        now[0] += 1

    def load() -> FakeModel:
        now[0] += 3600
        return FakeModel()

    text = space("random", trials=50).text.replace("trials: 50", f"trials: 50, minutes: {40 / 60}")

    result = run_search(plan(Score(trap=tick), read_space(text), open=load), tmp_path)

    assert 10 < result.report.trials["ended"] < 40 and now[0] <= 3600 + 40


def test_time_that_is_too_short_leaves_the_trials_that_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10**9, 3600))
    monkeypatch.setattr("searching.run.time", SimpleNamespace(monotonic=lambda: next(now)))
    text = space(trials=50).text.replace("trials: 50", "trials: 50, minutes: 1")

    result = run_search(plan(Score(), read_space(text)), tmp_path)

    assert result.report.trials["ended"] == 2 and result.best


def test_what_is_left_to_do_at_the_end_by_hand() -> None:
    """Two seconds for 20 documents: 0.1 each. A trial, five finalists on 10, and six recipes on 30 documents."""
    done = Scored("average", "search", "done", {}, seconds=2.0)

    assert measured(plan(Score(), space()), [done, done]).judging == pytest.approx(
        0.1 * (20 + 5 * 10 + 6 * 30)
    )

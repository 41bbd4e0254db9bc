"""Work on the models of the Score tab: in calls until every model has its figures, each model's error its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from checkpoints.problems import Problem
from evaluation import Cancelled, EvaluationError, FetchedModel
from ui.languages.english import ENGLISH
from ui.score.panel import ModelRow, Unavailable, in_calls, one_by_one
from ui.server import gpu
from ui.server.work import Turn


@dataclass(frozen=True)
class Counted(ModelRow):
    """Ends at three."""

    count: int = 0

    @property
    def ended(self) -> bool:
        return bool(self.trouble) or self.count == 3


MISSING = Unavailable("missing", "no such model")
ROWS = [Counted("a"), Counted("missing", trouble="no such model"), Counted("b", count=2)]


def model(name: str) -> FetchedModel:
    return FetchedModel(name, None, (name,), Path(name))


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FetchedModel, "bytes", 1)


def count_once(
    models: Sequence[FetchedModel | Unavailable], rows: Sequence[Counted], seconds: int | None, device: str
) -> Iterator[list[Counted]]:
    assert (seconds, device) == (None, "auto")
    yield [row if row.ended else replace(row, count=row.count + 1) for row in rows]


def test_calls_are_made_until_every_row_has_ended() -> None:
    *_, (run, last) = pieces = list(in_calls([model("a"), MISSING, model("b")], ROWS, count_once))

    assert [row.count for row in last] == [3, 0, 3]
    assert len(pieces) == 3
    assert run == gpu.GpuRun()


def test_a_stopped_turn_ends_the_work_and_the_rows_say_so() -> None:
    turn = Turn()
    calls = in_calls([model("a"), MISSING, model("b")], ROWS, count_once, turn=turn)
    next(calls)
    turn.stopped.set()

    [(_, last)] = calls

    assert [row.trouble for row in last] == [ENGLISH.page["score.stopped"], "no such model", ""]
    assert [row.count for row in last] == [2, 0, 3]


def counting(error: Exception | None = None) -> Callable[[FetchedModel, Counted, gpu.GpuCall], Any]:
    def work(model: FetchedModel, row: Counted, call: gpu.GpuCall) -> Any:
        def count(report: Callable[[Counted], None], cancel: threading.Event) -> Counted:
            report(replace(row, count=row.count + 1))
            if error and model.name == "a":
                raise error
            return replace(row, count=3)

        return count

    return work


def test_a_model_that_fails_leaves_the_others_their_turn() -> None:
    here = [model("a"), MISSING, model("b")]

    *_, last = one_by_one(here, ROWS, None, "cpu", counting(EvaluationError(Problem("empty-text"))))

    assert [(row.trouble, row.count == 3) for row in last] == [
        ("There is no text. Give one of at least a few sentences.", False),
        ("no such model", False),
        ("", True),
    ]
    *_, last = one_by_one(here, ROWS, None, "cpu", counting(ValueError("a bug")))
    assert "ValueError: a bug" in last[0].trouble and last[2].count == 3


def test_work_that_runs_out_of_time_is_left_to_the_next_call() -> None:
    began: list[str] = []

    def work(model: FetchedModel, row: Counted, call: gpu.GpuCall) -> Any:
        began.append(model.name)
        return counting(Cancelled())(model, row, call)

    pieces = list(one_by_one([model("a"), model("b")], ROWS[::2], 30, "auto", work))

    assert began == ["a"]
    assert not [row for rows in pieces for row in rows if row.trouble]

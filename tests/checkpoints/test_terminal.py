"""How the command lines end: every front end says of an error the same, with the same status."""

from __future__ import annotations

import pytest

from checkpoints.problems import Cancelled, CheckpointError, PlanError, Problem, RecipeError
from checkpoints.terminal import FAILED, REFUSED, reporter
from evaluation import Cancelled as CancelledEvaluation
from merging import Cancelled as CancelledMerge

PROBLEM = Problem("no-gpu")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Cancelled(), FAILED, "error: stopped. Run it again.\n"),
        (KeyboardInterrupt(), FAILED, "error: stopped. Run it again.\n"),
        (RecipeError(PROBLEM), REFUSED, f"error: {PROBLEM}\n"),
        (PlanError(PROBLEM), REFUSED, f"error: {PROBLEM}\n"),
        (CheckpointError(PROBLEM), FAILED, f"error: {PROBLEM}\n"),
        (ModuleNotFoundError("No optuna"), FAILED, "pip install 'alloy-merge[search]'\n"),
        (ValueError("a defect"), None, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_said_and_ends_with_a_status(
    error: BaseException, status: int | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reporter("Searching", "search", "Run it again.")(error, {}) == status

    said = capsys.readouterr()
    assert (said.out, said.err.endswith(words)) == ("", True)
    assert bool(said.err) == bool(words)


def test_a_stop_is_one_error() -> None:
    assert CancelledEvaluation is CancelledMerge is Cancelled

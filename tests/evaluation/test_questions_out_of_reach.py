"""Questions that cannot be fetched: said in plain words where there is no connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation import EvaluationError, benchmark, harness

# As `datasets` raises it: the cause is hidden, and stands only as the context.
HIDDEN = FileNotFoundError("Couldn't find any data file at /root/x")
HIDDEN.__context__, HIDDEN.__suppress_context__ = ConnectionError("/root/.cache/x"), True

KINDS: dict[str, tuple[Exception, str]] = {
    "no connection": (ConnectionError("/root/.cache/x"), "questions-out-of-reach"),
    "no connection, of which only the context tells": (HIDDEN, "questions-out-of-reach"),
    "no such data": (ValueError("no such configuration"), "no-questions"),
}


class Manager:
    """An index of tasks whose questions cannot be loaded."""

    def __init__(self, error: Exception):
        self.error = error

    def load(self, tasks: list[str]) -> None:
        try:
            raise self.error
        except Exception as error:
            raise RuntimeError("lm-eval failed") from error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fetch", [harness.fetch_questions, harness.question_counts])
def test_a_missing_connection_is_told_from_missing_questions(
    monkeypatch: pytest.MonkeyPatch, fetch: Callable[[list[str]], object], kind: str
) -> None:
    error, code = KINDS[kind]

    def manager(*_: Path | list[str] | None, **__: Any) -> Manager:
        return Manager(error)

    monkeypatch.setattr(harness, "_tasks_known", manager)
    monkeypatch.setattr(harness, "manager_of", manager)

    with pytest.raises(EvaluationError) as raised:
        fetch(["kmmlu"])

    [problem] = raised.value.problems
    assert problem.code == code
    assert ("/root" in str(problem)) is False


def test_a_benchmark_on_its_way_says_the_same() -> None:
    with pytest.raises(EvaluationError) as raised, benchmark._ended_early("a/one", ["kmmlu"]):
        raise HIDDEN

    assert [problem.code for problem in raised.value.problems] == ["questions-out-of-reach"]

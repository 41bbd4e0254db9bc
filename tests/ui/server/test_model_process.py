"""The process that holds loaded models: it works as this one would, and its end is nobody else's."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from checkpoints.problems import Cancelled, Problem
from evaluation import EvaluationError, fetch_model
from tests.ui.speaker import tiny_speaker
from ui.chat.answers import answers
from ui.chat.sampling import Sampling
from ui.languages.translate import current_language, speaking
from ui.server import model_process
from ui.server.model_process import ModelProcess, _Data

pytestmark = pytest.mark.separate_models


def count(to: int) -> Iterator[int]:
    yield from range(to)


def said() -> Iterator[Any]:
    yield os.getpid()
    yield current_language()
    yield sorted(os.environ)


def wrong(how: str) -> Iterator[int]:
    yield 1
    if how == "problem":
        raise EvaluationError(Problem("no-gpu-for-device"))
    if how == "cancelled":
        raise Cancelled
    if how == "defect":
        raise ValueError("with hf_secrettoken")
    if how == "panic":
        raise BaseException("as pyo3 raises it")  # noqa: TRY002
    if how == "dies":
        os._exit(9)


def busy() -> Iterator[int]:
    """Keeps every thread of its process waiting: one number that takes minutes."""
    yield 1
    yield 7 ** (7**11)


def until_closed(path: str) -> Iterator[int]:
    try:
        while True:
            yield 1
    finally:
        Path(path).write_text("closed")


@pytest.fixture(scope="module")
def models() -> Iterator[ModelProcess]:
    process = ModelProcess()
    yield process
    process.close()


def test_it_runs_generators_with_what_the_visitor_speaks_and_no_secret(
    models: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with speaking("ko"):
        pid, language, variables = models.stream(said)

    assert pid == models.generation != os.getpid()
    assert language == "ko"
    assert not [name for name in variables if "TOKEN" in name and name != "HF_HUB_DISABLE_IMPLICIT_TOKEN"]
    assert list(models.stream(count, 5)) == [0, 1, 2, 3, 4]


def test_it_goes_no_further_than_it_is_iterated_and_closes(models: ModelProcess, tmp_path: Path) -> None:
    with closing(models.stream(until_closed, str(tmp_path / "mark"))) as stream:
        assert next(stream) == 1

    deadline = time.monotonic() + 60
    while not (tmp_path / "mark").exists():
        assert time.monotonic() < deadline
        list(models.stream(count, 1))


def test_errors_arrive_as_they_were(models: ModelProcess) -> None:
    with pytest.raises(EvaluationError) as raised:
        list(models.stream(wrong, "problem"))
    with pytest.raises(Cancelled):
        list(models.stream(wrong, "cancelled"))
    with pytest.raises(RuntimeError, match=r"ValueError: with \(token\)") as defect:
        list(models.stream(wrong, "defect"))

    with pytest.raises(RuntimeError, match="as pyo3"):
        list(models.stream(wrong, "panic"))
    assert raised.value.problems == (Problem("no-gpu-for-device"),)
    assert "hf_secrettoken" not in str(defect.value)


def test_its_end_is_a_problem_for_those_who_wait_and_it_starts_again(models: ModelProcess) -> None:
    before = models.generation or next(models.stream(said))
    waiting = models.stream(count, 5)
    assert next(waiting) == 0

    with pytest.raises(EvaluationError, match="has ended"):
        list(models.stream(wrong, "dies"))

    with pytest.raises(EvaluationError, match="has ended"):
        list(waiting)
    assert list(models.stream(count, 2)) == [0, 1]
    assert models.generation not in (0, before)


def test_a_library_that_keeps_all_threads_waiting_is_ended(
    models: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(models.stream(count, 1)) == [0]
    monkeypatch.setattr(model_process, "MOST_SILENT", 4.0)

    with pytest.raises(EvaluationError, match="has ended"):
        list(models.stream(busy))

    monkeypatch.undo()
    assert list(models.stream(count, 1)) == [0]


def test_many_calls_run_side_by_side(models: ModelProcess) -> None:
    streams = [models.stream(count, 3) for _ in range(8)]
    for number in range(3):
        assert [next(stream) for stream in streams] == [number] * 8
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(list(models.stream(count, 50)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert found == [list(range(50))] * 4


def test_memory_is_held_while_the_work_runs(models: ModelProcess) -> None:
    with models.hold_memory(1000):
        pass
    with pytest.raises(EvaluationError, match="GB"), models.hold_memory(1 << 60):
        pass


def test_a_model_answers_there_as_it_does_here(models: ModelProcess, tmp_path: Path) -> None:
    fetched = fetch_model(tiny_speaker(tmp_path / "model", 1))
    asked = ([fetched], [[{"role": "user", "content": "hi"}]], Sampling("", 0, max_new_tokens=6), "cpu")

    *_, [there] = models.stream(answers, *asked)
    *_, [here] = answers(*asked)

    assert there.text == here.text


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(os.system),
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        pickle.dumps(tiny_speaker),
        pickle.dumps(ModelProcess),
    ],
)
def test_what_it_sends_is_data(data: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="is no data"):
        _Data(BytesIO(data)).load()

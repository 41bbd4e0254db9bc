"""A whole check: every prompt is answered, and faults are counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation import Cancelled, LanguageModel
from evaluation.__main__ import DONE, main
from evaluation.chat_check import PROMPTS, check_chat
from evaluation.faults import FAULTS
from tests.evaluation.conftest import make_network


def test_a_check_counts_every_fault(model: LanguageModel) -> None:
    seen: list[int] = []

    found = check_chat(model, PROMPTS[:3], max_new_tokens=4, on_progress=lambda done, _: seen.append(done))

    assert seen == [1, 2, 3]
    assert [one.prompt for one in found.answers] == list(PROMPTS[:3])
    assert found.counts["cut"] == sum("cut" in one.faults for one in found.answers)
    assert set(found.counts) == set(FAULTS)


def test_a_check_stops(model: LanguageModel) -> None:
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        check_chat(model, max_new_tokens=2, cancel=cancel, on_progress=lambda *_: cancel.set())


def test_chat_on_the_command_line(
    make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(make_folder(make_network(max_position_embeddings=512)))

    assert main(["chat", folder, "--new-tokens", "3", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert len(found["models"][0]["answers"]) == len(PROMPTS)

    assert main(["chat", folder, "--new-tokens", "3"]) == DONE
    assert "wrong language" in capsys.readouterr().out

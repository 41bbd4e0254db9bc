"""A broken merge is told by its answer, in plain sight."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation import load_model, reply
from tests.ui.speaker import tiny_speaker
from ui.chat_tab import _warned, _warning
from ui.texts import ENGLISH


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("", "chat.warning.empty"),
        (" ?! ", "chat.warning.empty"),
        ("the sea is deep " * 5, "chat.warning.repeated"),
        ("Rome is the capital of Italy.", None),
    ],
)
def test_garbage_is_told(tmp_path: Path, answer: str, key: str | None) -> None:
    said = reply(load_model(tiny_speaker(tmp_path / "model")), [{"role": "user", "content": "Hi"}])
    said.text = answer

    warning = _warning("What is the capital of Italy?", said)

    assert warning == (ENGLISH[key] if key else "")
    assert ("alert" in _warned(warning)) is bool(key)

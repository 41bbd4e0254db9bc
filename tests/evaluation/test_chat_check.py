"""Rules for answers, each by an example on either side; and a whole check."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation import Cancelled, LanguageModel
from evaluation.__main__ import DONE, main
from evaluation.chat_check import FAULTS, PROMPTS, check_chat, faults
from tests.evaluation.conftest import make_network


@pytest.mark.parametrize(
    ("prompt", "answer", "cut", "expected"),
    [
        ("Hi", "Hello there.", False, ()),
        ("Hi", " \n...", False, ("empty",)),
        ("Hi", "It is as it is, as far as I know.", False, ()),
        ("Hi", "to be or not " * 3, False, ("repeated",)),
        ("Hi", "to be or not " * 2, False, ()),
        ("Hi", "hahaaaaaaaaaaa", False, ("repeated",)),
        ("Hi", "----------", False, ("empty",)),
        ("Hi", "And so on and", True, ("cut",)),
        ("Hi", "안녕하세요", False, ("wrong language",)),
        ("Hi", "Annyeong, which is 안녕.", False, ()),
        ("안녕", "안녕하세요, Bob", False, ()),
        ("안녕", "Hello there, 안녕", False, ("wrong language",)),
        ("일주일은?", "7", False, ()),
    ],
)
def test_the_rules(prompt: str, answer: str, cut: bool, expected: tuple[str, ...]) -> None:
    assert faults(prompt, answer, cut=cut) == expected


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

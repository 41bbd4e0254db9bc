"""Answers as the chat shows them: a broken merge is told by its answer, in plain sight; reasoning is folded."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints.problems import Cancelled
from evaluation import EvaluationError, LanguageModel, fetch_model, load_model
from tests.ui.speaker import tiny_speaker
from ui.chat.answers import answers, garbage, loaded, plain, shown, warned
from ui.chat.sampling import Sampling
from ui.languages.english import ENGLISH

QUESTION = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("", "chat.warning.empty"),
        (" ?! ", "chat.warning.empty"),
        ("the sea is deep " * 5, "chat.warning.repeated"),
        ("<think>Which one? Rome.</think>", "chat.warning.empty"),
        ("<think>It is cut in the midst of", None),
        ("<think>the sea is deep so the sea is deep and the sea is deep</think>Rome.", None),
        ("Rome is the capital of Italy.", None),
    ],
)
def test_garbage_is_told(answer: str, key: str | None) -> None:
    warning = garbage("What is the capital of Italy?", answer)

    assert warning == (ENGLISH.page[key] if key else "")
    assert ("alert" in warned(warning)) is bool(key)


@pytest.fixture(autouse=True)
def live_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model stand for its merge in memory."""
    monkeypatch.setattr("ui.chat.answers.model_of", lambda model, *_: model)


def speaker(folder: Path, template: str | None = None) -> LanguageModel:
    model = load_model(tiny_speaker(folder))
    model.tokenizer.chat_template = template
    return model


@pytest.mark.parametrize("is_asked", [True, False], ids=["asked", "warmed up"])
def test_closing_stops_the_conversion(
    is_asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def convert(*_: Any, write_gguf: Any, **__: Any) -> None:
        if write_gguf.keywords["cancel"].wait(60):
            stopped.set()
            raise Cancelled

    monkeypatch.setattr("ui.chat.answers.load_to_answer", convert)
    model = fetch_model(tiny_speaker(tmp_path))
    loading: Any = answers([model], [QUESTION], Sampling(), "cpu") if is_asked else loaded(model)

    next(loading)
    assert not stopped.is_set()
    loading.close()

    assert stopped.wait(60)


def test_a_model_of_nan_is_told_and_the_other_goes_on(tmp_path: Path) -> None:
    whole, broken = speaker(tmp_path / "a"), speaker(tmp_path / "b")
    with torch.no_grad():
        next(broken.network.parameters()).fill_(torch.nan)
    sampling = Sampling(max_new_tokens=4)

    *_, (first, second) = answers([broken, whole], [QUESTION, QUESTION], sampling, "cpu")

    assert "NaN" in first.warning
    assert "4 tokens" in second.line and "NaN" not in second.warning
    with pytest.raises(EvaluationError, match="NaN"):
        list(answers([broken], [QUESTION], sampling, "cpu"))


def test_a_quick_model_updates_the_page_ten_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=0.025)  # seconds; one is read at each piece, another at each update
    monkeypatch.setattr("ui.chat.answers.monotonic", clock.__next__)
    model = speaker(tmp_path / "model")

    seen = [one.text for (one,) in answers([model], [QUESTION], Sampling(max_new_tokens=40), "cpu")]

    pieces = [text for text in dict.fromkeys(seen) if text]
    assert 2 < len(pieces) <= 40 / 4 + 2, pieces


def test_reasoning_that_the_template_opens_is_reasoning(tmp_path: Path) -> None:
    opens = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\n"
    model = speaker(tmp_path / "model", opens)

    *_, (answer,) = answers([model], [QUESTION], Sampling(max_new_tokens=4), "cpu")

    assert answer.text.startswith("<think>")
    assert shown(answer.text)[0]["metadata"]["title"] == ENGLISH.page["chat.reasoning"]


def test_reasoning_is_folded_and_no_model_reads_it_again() -> None:
    messages = shown("<think>\nItaly, so Rome.\n</think>\n\nRome.")

    assert [message["content"] for message in messages] == ["Italy, so Rome.", "Rome."]
    assert messages[0]["metadata"] == {"title": ENGLISH.page["chat.reasoning"], "status": "done"}
    assert "metadata" not in messages[1]
    assert shown("<think>Italy")[0]["metadata"]["status"] == "pending"
    assert shown("Rome <think>")[0] == {"role": "assistant", "content": "Rome <think>"}

    # As Gradio hands them over.
    parts = [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]
    assert plain([*QUESTION, *parts]) == [*QUESTION, {"role": "assistant", "content": "Rome."}]
    assert plain([*QUESTION, parts[0]]) == [*QUESTION, {"role": "assistant", "content": ""}]

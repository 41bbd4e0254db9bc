"""What of a text is too long for a server."""

from __future__ import annotations

import pytest

from checkpoints.typed_text import MAX_CHARACTERS, MAX_WORD, excess


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", None),
        ("a" * MAX_WORD + "\n" + "b" * MAX_WORD, None),
        ("a " * (MAX_CHARACTERS // 2), None),
        ("a " * (MAX_CHARACTERS // 2) + "b", "text-too-long"),
        (f"b {'a' * (MAX_WORD + 1)} b", "word-too-long"),
        ("\u0301" * (MAX_WORD + 1), "word-too-long"),
    ],
)
def test_texts_and_words_have_a_length(text: str, code: str | None) -> None:
    problem = excess(text)

    assert (problem.code if problem else None) == code

"""The text that models read on the Score tab."""

from __future__ import annotations

import pytest

from evaluation.text import BUNDLED, bundled_text
from ui.languages.translate import speaking
from ui.score.source import _pasted, readers_sample


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_text_is_its_paragraphs(name: str) -> None:
    assert _pasted("\n\n".join(bundled_text(name)), None).texts == tuple(bundled_text(name))


def test_any_other_text_is_one_document() -> None:
    assert _pasted("One.\n\nTwo.", None).texts == ("One.\n\nTwo.",)
    assert _pasted("One.\n\nTwo.", ("one.txt", "One.\n\nTwo.")).source.name == "one.txt"


@pytest.mark.parametrize(("language", "name"), [("ko", "korean"), ("en", "english"), (None, "english")])
def test_the_sample_is_in_the_readers_language(language: str | None, name: str) -> None:
    with speaking(language):
        assert readers_sample() == "\n\n".join(bundled_text(name))

"""What tokens stand for, however a vocabulary spells them."""

from __future__ import annotations

import pytest
from tokenizers import pre_tokenizers

from merging.recipe.recipe import ModelReference
from merging.tokenizers.spelling import Spelling, spelled, spelling_of, text_of
from merging.tokenizers.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("token", "spelling", "text"),
    [
        ("Ġthe", "bytes", b" the"),
        ("Ċ", "bytes", b"\n"),
        ("ìķ", "bytes", "안".encode()[:2]),
        ("▁the", "mark", b" the"),
        ("<0x0A>", "mark", b"\n"),
        ("안", "mark", "안".encode()),
        ("the", "words", b" the"),
        ("##ing", "words", b"ing"),
        ("the", "text", b"the"),
    ],
)
def test_what_a_token_stands_for(token: str, spelling: Spelling, text: bytes) -> None:
    assert text_of(token, spelling) == text


def test_every_byte_has_a_character_and_back() -> None:
    every = bytes(range(256))

    written = spelled(every, "bytes")

    assert written is not None
    assert set(written) == set(pre_tokenizers.ByteLevel.alphabet())
    assert text_of(written, "bytes") == every


def test_text_as_a_vocabulary_spells_it() -> None:
    assert spelled(b" the", "mark") == "▁the"
    assert spelled(b" the", "words") == "the"
    assert spelled("안".encode()[:2], "mark") is None


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "bytes"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}}, "bytes"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "mark"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}, "mark"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "words"),
        ({}, "text"),
    ],
)
def test_how_a_tokenizer_spells(parts: dict[str, object], expected: Spelling) -> None:
    document = {"model": {"type": "BPE", "vocab": {}}, **parts}

    assert spelling_of(Tokenizer(ModelReference("any"), document)) == expected

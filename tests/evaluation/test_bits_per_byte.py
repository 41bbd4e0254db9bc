"""Bits and bytes are of the same text, whatever a tokenizer makes of characters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evaluation import EvaluationError, LanguageModel, Perplexity, difference, load_model, perplexity
from evaluation.difference import segments
from evaluation.perplexity import Unfinished, perplexity_slice
from tests.evaluation.conftest import TEXT, make_network

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", "a", "b", "▁a", "m", "od", "▁model", "한", "국", "▁한"]


def byte_level() -> Tokenizer:
    """Merges run across characters, so tokens hold the end of one and the beginning of another."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([TEXT, "훑훕훑훕😀😃훑훕😀😃", "훑a뷑a쀑a궑a힑a" * 9], trainer)
    return made


def sentencepiece_bpe() -> Tokenizer:
    """Llama's kind: a piece for each known string, tokens of bytes for all other characters."""
    vocabulary = {token: number for number, token in enumerate(["<unk>", *BYTES, *PIECES])}
    merges = [("▁", "a"), ("▁", "한")]
    vocabulary = {**vocabulary, "▁a": vocabulary["▁a"], "▁한": vocabulary["▁한"]}
    made = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def sentencepiece_unigram() -> Tokenizer:
    """Gemma's and T5's kind, with bytes for unknown characters, of which several share their offsets."""
    scores = [
        ("<unk>", 0.0),
        *((byte, -9.0) for byte in BYTES),
        *((piece, -len(piece) / 9) for piece in PIECES),
    ]
    made = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return made


def word_piece() -> Tokenizer:
    """BERT's kind: white space is dropped, accents and case too, and unknown words are one token."""
    pieces = ["[UNK]", "a", "##b", "model", "##s", "한", "국", *map(chr, range(97, 123)), "##a", "##국"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


KINDS = {make.__name__: make for make in (byte_level, sentencepiece_bpe, sentencepiece_unigram, word_piece)}
TEXTS = st.text(
    st.sampled_from("ab model한국훑훕é😀😃\n\u0301ᄒ") | st.characters(codec="utf-8"), max_size=24
)


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    """One network under four tokenizers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for kind, make in KINDS.items():
        folder: Path = tmp_path_factory.mktemp(kind)
        make_network().save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=make(), eos_token=None).save_pretrained(folder)
        found[kind] = load_model(folder, device="cpu")
    torch.set_num_threads(threads)
    return found


def scored(model: LanguageModel, texts: list[str], **options: Any) -> Perplexity | None:
    try:
        return perplexity(model, texts, **options)
    except EvaluationError as error:
        assert "nothing to score" in str(error)
        return None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(texts=["훑훕 a model", "뷁 the disk", "쀍 weights", "힣 in seconds", "궳 the fix", "쑟 at once"])
@example(texts=["훕훑훕 😀x"])
@example(texts=["  a ", "a\n\n", "\u0301a"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_one_figure_and_a_difference_are_of_the_same_bytes(
    judges: dict[str, LanguageModel], kind: str, texts: list[str]
) -> None:
    found = scored(judges[kind], texts, context=8, stride=3)
    if found is None:
        return

    parts = [segments(document, document) for document in found.documents]
    assert sum(float(part.nats[:, 0].sum()) for part in parts) == pytest.approx(found.nll_nats)
    assert sum(int(part.tokens[:, 0].sum()) for part in parts) == found.tokens
    assert difference(found, found, texts).bytes == found.bytes
    assert found.bits_per_byte == pytest.approx(found.nll_nats / math.log(2) / found.bytes)
    for document, text in zip(found.documents, texts, strict=True):
        if document.tokens:
            scored_text = text[document.start : int(document.token_ends[-1])]
            assert (document.bytes, document.characters) == (len(scored_text.encode()), len(scored_text))


@pytest.mark.parametrize("kind", KINDS)
def test_slices_are_of_the_same_bytes(judges: dict[str, LanguageModel], kind: str) -> None:
    texts = ["훑훕 a model 한국", "뷁 the disk", "a\n", "é 😀😃"]
    options: dict[str, Any] = {"context": 4, "stride": 2, "batch_tokens": 8}

    found = perplexity_slice(judges[kind], texts, seconds=0, **options)
    while isinstance(found, Unfinished):
        found = perplexity_slice(judges[kind], texts, seconds=0, unfinished=found, **options)

    whole = perplexity(judges[kind], texts, **options)
    assert (found.nll_nats, found.tokens, found.bytes) == (whole.nll_nats, whole.tokens, whole.bytes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="훕훑훕 😀x")
@example(text="뱑a model")
@given(text=TEXTS)
def test_scored_tokens_of_bytes_are_the_bytes_that_count(judges: dict[str, LanguageModel], text: str) -> None:
    """A byte-level token shows its bytes, so those of the scored tokens can be counted."""
    model = judges["byte_level"]
    found = scored(model, [text])
    if found is None:
        return

    tokens = model.tokenizer.tokenize(text)
    assert sum(map(len, tokens[len(tokens) - found.tokens :])) == found.bytes
    # No more than the first characters is given: without the last given token they would not be whole.
    given = [len(token) for token in tokens[: len(tokens) - found.tokens]]
    places = {len(text[:end].encode()) for end in range(len(text) + 1)}
    assert [sum(given[:n]) in places for n in range(1, len(given) + 1)] == [False] * (len(given) - 1) + [True]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_models_of_two_tokenizers_meet_at_whole_characters(
    judges: dict[str, LanguageModel], text: str
) -> None:
    scores = [scored(judges[kind], [text]) for kind in ("byte_level", "sentencepiece_unigram")]
    one, two = scores
    if one is None or two is None:
        return
    try:
        found, mirrored = difference(one, two, [text]), difference(two, one, [text])
    except EvaluationError as error:
        assert "no text in common" in str(error)
        return

    assert found.bytes == mirrored.bytes <= min(one.bytes, two.bytes)
    assert found.bits_per_byte == pytest.approx(-mirrored.bits_per_byte)


def test_a_tokenizer_without_offsets_gives_its_first_character(
    judges: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one written in Python: where tokens end is unknown, but for the first one and the last."""
    model = judges["byte_level"]
    text = "훑훕 a model"
    fast = perplexity(model, text)
    monkeypatch.setattr(type(model.tokenizer), "is_fast", False)

    slow = perplexity(model, text)

    assert (slow.nll_nats, slow.tokens, slow.bytes) == (fast.nll_nats, fast.tokens, fast.bytes)
    assert difference(slow, fast, [text]).bytes == fast.bytes
    assert slow.documents[0].token_ends.tolist() == [len(text)] * slow.tokens

"""Paired differences: worked by hand, against scipy, and as often right as they claim."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from evaluation import EvaluationError, LanguageModel, perplexity
from evaluation.difference import OTHER_TOKENS, Difference, _student, difference, segments
from evaluation.perplexity import DocumentScore, Perplexity
from tests.evaluation.conftest import TEXT, make_network, make_tokenizer

MakeModel = Callable[..., LanguageModel]


def document(nats: list[float], ends: list[int], start: int = 0) -> DocumentScore:
    """A score of ASCII text."""
    size = ends[-1] - start
    return DocumentScore(
        sum(nats), len(nats), size, size, start, np.array(nats, np.float32), np.array(ends, np.int32)
    )


def scored(name: str, documents: list[DocumentScore]) -> Perplexity:
    return Perplexity(
        model=name,
        commit=None,
        perplexity=1.0,
        nll_nats=0.0,
        tokens=sum(document.tokens for document in documents),
        bytes=0,
        characters=0,
        bits_per_byte=0.0,
        bits_per_character=0.0,
        context=8,
        stride=4,
        bos=True,
        dtype="float32",
        seconds=1.0,
        documents=tuple(documents),
    )


def test_segments_lie_between_the_boundaries_that_tokens_share() -> None:
    """The text is "abcdefgh", cut as ab|cd|ef|gh, and without its first token as bcd|e|fgh."""
    model = document([1, 2, 4, 8], [2, 4, 6, 8])
    other = document([10, 20, 40], [4, 5, 8], start=1)

    found = segments(model, other)

    assert (found.start, found.ends.tolist()) == (4, [8])
    assert found.nats.tolist() == [[12, 60]]
    assert found.tokens.tolist() == [[2, 2]]


def test_tokens_of_one_character_stay_together() -> None:
    model = document([1, 2, 4], [1, 1, 2])
    other = document([8, 16], [1, 2])

    assert segments(model, other).nats.tolist() == [[3, 8], [4, 16]]


def test_a_difference_worked_by_hand() -> None:
    """Ten equal documents of 4 bytes and 2 tokens, each 1 bit easier: the interval has no width."""
    bit = math.log(2)
    easy = [document([bit, bit], [2, 4]) for _ in range(10)]
    hard = [document([bit, 2 * bit], [2, 4]) for _ in range(10)]

    found = difference(scored("merge", easy), scored("parent", hard), ["abcd"] * 10)

    assert found.bits_per_byte == pytest.approx(-0.25)
    assert found.interval == pytest.approx((-0.25, -0.25))
    assert found.perplexity_ratio == pytest.approx(2**-0.5)
    assert (found.bytes, found.blocks, found.verdict) == (40, 10, "better")
    assert "merge predicts this text better than parent (-0.2500 bits per byte" in found.words


def test_what_goes_both_ways_is_no_difference() -> None:
    even = [document([1.0], [4]) for _ in range(10)]
    mixed = [document([1.0 + (-1) ** i], [4]) for i in range(10)]

    found = difference(scored("a", even), scored("b", mixed), ["abcd"] * 10)

    assert found.verdict == "none"
    assert "no difference that this text can show" in found.words


def test_four_documents_are_too_few_and_long_ones_are_cut() -> None:
    short = scored("a", [document([1.0], [4])] * 4)
    long = scored("a", [document([1.0] * 1024, list(range(8, 8193, 8)))])

    found = difference(short, short, ["abcd"] * 4)
    cut = difference(long, long, ["a" * 8192])

    assert (found.verdict, found.interval) == ("short", None)
    assert "Too little text" in found.words
    assert (cut.blocks, cut.bytes, cut.verdict) == (16, 8192, "none")


@pytest.mark.parametrize("count", [6, 30])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents whose differences are drawn around 0.1 nats a token."""
    # More make the ends smoother, not other ones. (The module, whose name in the package is the function.)
    monkeypatch.setattr(sys.modules["evaluation.difference"], "_DRAWS", 2000)
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        drawn = generator.normal(0.1, 0.3, count)
        model = scored("a", [document([5.0 + float(x)], [4]) for x in drawn])
        other = scored("b", [document([5.0], [4])] * count)
        interval = difference(model, other, ["abcd"] * count).interval
        assert interval
        inside += interval[0] <= 0.1 / math.log(2) / 4 <= interval[1]

    assert 89 <= inside <= 99


@pytest.mark.parametrize("freedom", [4, 5, 9, 30, 1000])
def test_students_quantile(freedom: int) -> None:
    assert _student(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


def test_models_of_different_tokenizers_are_compared_on_their_common_bytes(make_model: MakeModel) -> None:
    """One skips its first token and one does not; the common text is what both scored."""
    texts = [TEXT, "두 언어 모델을 합치면", *[TEXT[i : i + 60] for i in range(0, 200, 20)]]
    one = make_model(name="one")
    two = make_model(make_network(seed=1), make_tokenizer(adds_bos=True), name="two")

    score = perplexity(one, texts)
    found = difference(score, perplexity(two, texts), texts)
    mirrored = difference(perplexity(two, texts), perplexity(one, texts), texts)

    first_tokens = sum(
        len(one.tokenizer.decode(one.tokenizer(text)["input_ids"][:1]).encode()) for text in texts
    )
    assert found.bytes == sum(len(text.encode()) for text in texts) - first_tokens
    assert found.perplexity_ratio is None
    assert found.words.endswith(OTHER_TOKENS) and OTHER_TOKENS not in difference(score, score, texts).words
    assert mirrored.bits_per_byte == pytest.approx(-found.bits_per_byte)


def test_a_model_does_not_differ_from_itself(model: LanguageModel) -> None:
    texts = [TEXT[i : i + 80] for i in range(0, 300, 30)]
    score = perplexity(model, texts)

    found = difference(score, score, texts)

    assert isinstance(found, Difference)
    assert (found.bits_per_byte, found.interval, found.perplexity_ratio) == (0, (0, 0), 1)
    assert found.verdict == "none"


def test_scores_of_other_texts_are_refused(model: LanguageModel) -> None:
    score = perplexity(model, TEXT)

    with pytest.raises(EvaluationError, match="Score both on the same texts"):
        difference(score, score, [TEXT, TEXT])

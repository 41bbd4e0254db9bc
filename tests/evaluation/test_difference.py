"""Paired differences: worked by hand, against scipy, and as often right as they claim."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from evaluation import EvaluationError, LanguageModel, perplexity
from evaluation.difference import Difference, difference, interval, segments
from evaluation.perplexity import DocumentScore, Perplexity
from evaluation.remark import Remark
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


def four_bytes(count: int) -> list[str]:
    """Distinct documents of four bytes."""
    return [f"{number:04}" for number in range(count)]


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

    found = difference(scored("merge", easy), scored("parent", hard), four_bytes(10))

    assert found.bits_per_byte == pytest.approx(-0.25)
    assert found.interval == pytest.approx((-0.25, -0.25))
    assert found.perplexity_ratio == pytest.approx(2**-0.5)
    assert (found.bytes, found.documents, found.blocks, found.verdict) == (40, 10, None, "better")
    assert "merge predicts this text better than parent (-0.2500 bits per byte" in found.words


def test_what_goes_both_ways_is_no_difference() -> None:
    even = [document([1.0], [4]) for _ in range(10)]
    mixed = [document([1.0 + (-1) ** i], [4]) for i in range(10)]

    found = difference(scored("a", even), scored("b", mixed), four_bytes(10))

    assert found.verdict == "none"
    assert "no difference that this text can show" in found.words


def test_four_documents_are_too_few_and_long_ones_are_cut() -> None:
    short = scored("a", [document([1.0], [4])] * 4)
    long = scored("a", [document([1.0] * 1024, list(range(8, 8193, 8)))])

    found = difference(short, short, four_bytes(4))
    cut = difference(long, long, ["a" * 8192])

    assert (found.verdict, found.interval) == ("short", None)
    assert "Too little text to compare a with a: 4 different documents with 16 bytes" in found.words
    assert (cut.documents, cut.blocks, cut.bytes, cut.verdict) == (1, 16, 8192, "none")
    assert "Measured on 16 blocks of 1 document, so it holds for this text" in cut.words
    assert "blocks" not in difference(*[scored("a", [document([1.0], [4])] * 5)] * 2, four_bytes(5)).words


def test_blocks_of_longer_texts_are_longer() -> None:
    long = scored("a", [document([1.0] * 8192, list(range(8, 65537, 8)))] * 2)

    assert difference(long, long, ["a" * 65536, "b" * 65536]).blocks == 32


def test_identical_documents_are_one() -> None:
    """Twelve documents, of which two are different: no more than these two are known, however often they are given."""
    one, two = document([1.0, 2.0], [2, 4]), document([2.0, 2.5], [2, 4])
    model, other = scored("a", [one, two] * 6), scored("b", [two, one] * 6)
    texts = ["abcd", "efgh"] * 6

    found = difference(model, other, texts)

    assert (found.documents, found.verdict, found.bytes) == (2, "short", 48)
    assert interval(model, texts) is None


def test_a_document_that_is_given_twice_counts_twice_and_is_one_unit() -> None:
    """Six documents of a bit each in four bytes and one of nine: the last one, given twice, counts for two."""
    bit = math.log(2)
    model = scored("a", [document([bit], [4])] * 6 + [document([9 * bit], [4])] * 2)
    other = scored("b", [document([0.0], [4])] * 8)

    found = difference(model, other, [*four_bytes(7), "0006"])

    assert found.bits_per_byte == pytest.approx((6 + 18) / 32)
    assert found.documents == 7


def test_one_document_that_differs_from_all_others_is_too_little_text() -> None:
    model = scored("a", [document([1.0 + i / 100], [4]) for i in range(7)] + [document([9.0], [4])])
    other = scored("b", [document([1.0], [4])] * 8)

    found = difference(model, other, four_bytes(8))

    assert (found.verdict, found.has_outlier) == ("short", True)
    assert "one of 8 documents differs from all others" in found.words


def test_no_difference_comes_with_what_could_be_seen_and_what_would_decide_it() -> None:
    """Ten documents whose differences are evenly spread about 0: deviation 0.0303 bits, error 0.0096."""
    bits = [(i - 4.5) / 100 for i in range(10)]
    model = scored("a", [document([(1 + bit) * math.log(2)], [1]) for bit in bits])
    other = scored("b", [document([math.log(2)], [1])] * 10)

    found = difference(model, other, list("0123456789"))

    assert found.verdict == "none" and found.detectable and found.more_documents
    assert found.detectable == pytest.approx((2.2622 + 0.8834) * 0.030277 / 10**0.5, rel=1e-3)
    # As a textbook has it: (1.96 + 0.84)² 0.0303² / 0.01² = 72 documents, a few more for the spread being estimated.
    assert 62 <= found.more_documents <= 66
    assert "usually shows differences of 0.0301 or more" in found.words
    assert (
        f"About {found.more_documents} more documents like these would show a difference of 0.01."
        in found.words
    )
    told = found.to_dict()
    assert (told["detectable"], told["more_documents"]) == (found.detectable, found.more_documents)


def test_enough_text_asks_for_no_more() -> None:
    model = scored("a", [document([1.0 + (-1) ** i / 1000], [4]) for i in range(20)])
    other = scored("b", [document([1.0], [4])] * 20)

    found = difference(model, other, four_bytes(20))

    assert (found.verdict, found.more_documents) == ("none", None)
    assert found.detectable and found.detectable < 0.01


@pytest.mark.parametrize("count", [6, 30])
def test_the_interval_holds_the_truth_as_often_as_it_says(count: int) -> None:
    """Documents whose differences are drawn around 0.1 nats a token."""
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        drawn = generator.normal(0.1, 0.3, count)
        model = scored("a", [document([5.0 + float(x)], [4]) for x in drawn])
        other = scored("b", [document([5.0], [4])] * count)
        found = difference(model, other, four_bytes(count)).interval
        assert found
        inside += found[0] <= 0.1 / math.log(2) / 4 <= found[1]

    assert 89 <= inside <= 99


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
    apart = Remark("difference-tokenizers")
    assert found.remarks[-1] == apart and apart not in difference(score, score, texts).remarks
    assert mirrored.bits_per_byte == pytest.approx(-found.bits_per_byte)


def test_a_model_does_not_differ_from_itself(model: LanguageModel) -> None:
    texts = [TEXT[i : i + 80] for i in range(0, 300, 30)]
    score = perplexity(model, texts)

    found = difference(score, score, texts)

    assert isinstance(found, Difference)
    assert (found.bits_per_byte, found.interval, found.perplexity_ratio) == (0, (0, 0), 1)
    assert "usually shows" not in found.words
    assert found.verdict == "none"


def test_scores_of_other_texts_are_refused(model: LanguageModel) -> None:
    score = perplexity(model, TEXT)

    with pytest.raises(EvaluationError, match="Score both on the same texts"):
        difference(score, score, [TEXT, TEXT])

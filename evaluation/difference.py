"""Whether one model predicts a text better than another, and where: the same text, read by both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.error import EvaluationError
from evaluation.perplexity import DocumentScore, Perplexity, exponential

LEVEL = 0.95
# Longer documents are cut into blocks of about so many bytes: neighbouring tokens are no independent
# witnesses, paragraphs nearly are.
_BLOCK_BYTES = 512
# With fewer blocks than this a bootstrap knows nothing of how far they spread.
_FEWEST_BLOCKS = 5
_DRAWS = 10_000

OTHER_TOKENS = (
    "Their tokenizers differ, so compare bits per byte: perplexities of different tokens say nothing."
)

Verdict = Literal["better", "worse", "none", "short"]


@dataclass(frozen=True)
class Difference:
    """How much better or worse a model predicts a text than another, with 95 % intervals.

    Attributes:
        model: the model that is judged, such as a merge.
        other: what it is held against, such as a parent.
        bits_per_byte: the model's minus the other's; below 0 the model is better.
        interval: its 95 % interval, None with too little text for one.
        perplexity_ratio: the model's perplexity divided by the other's; None for different tokenizers.
        perplexity_interval: its 95 % interval.
        bytes: UTF-8 bytes that both scored.
        blocks: documents, or pieces of long ones, that were drawn anew.
    """

    model: str
    other: str
    bits_per_byte: float
    interval: tuple[float, float] | None
    perplexity_ratio: float | None
    perplexity_interval: tuple[float, float] | None
    bytes: int
    blocks: int

    @property
    def verdict(self) -> Verdict:
        """better or worse, if the whole interval says so; none; short with too little text to tell."""
        if self.interval is None:
            return "short"
        if self.interval[1] < 0:
            return "better"
        return "worse" if self.interval[0] > 0 else "none"

    @property
    def words(self) -> str:
        """The verdict in a sentence, and a warning where the perplexities beside it compare nothing."""
        if self.perplexity_ratio is None:
            return f"{self._verdict_in_words} {OTHER_TOKENS}"
        return self._verdict_in_words

    @property
    def _verdict_in_words(self) -> str:
        if self.interval is None:
            return (
                f"Too little text to compare {self.model} with {self.other}: {self.blocks} block(s) of text,"
                f" and {_FEWEST_BLOCKS} are the least."
            )
        low, high = self.interval
        figures = f"{self.bits_per_byte:+.4f} bits per byte, 95 % interval {low:+.4f} to {high:+.4f}"
        if self.verdict == "none":
            return f"{self.model} and {self.other}: no difference that this text can show ({figures})."
        return f"{self.model} predicts this text {self.verdict} than {self.other} ({figures})."

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "verdict": self.verdict, "words": self.words}


@dataclass(frozen=True)
class Segments:
    """Pieces of one document that begin and end at a token's end for both models.

    With one tokenizer a segment is a token (or the tokens of one character).

    Attributes:
        start: where the first begins, in characters.
        ends: (n,) where each ends.
        nats: (n, 2) float64, negative log-likelihood of each by the model and by the other.
        tokens: (n, 2) the tokens in each.
    """

    start: int
    ends: NDArray[np.int64]
    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]


def segments(model: DocumentScore, other: DocumentScore) -> Segments:
    """Cut a document that two models scored at the boundaries that their tokens share.

    What only one of them scored (the first token, without BOS) belongs to no segment. Without tokens'
    places the document is one segment.
    """
    if not len(model.token_ends) or not len(other.token_ends):
        both = [model, other]
        end = max(score.start + score.characters for score in both)
        return Segments(
            max(score.start for score in both),
            np.array([end]),
            np.array([[score.nats for score in both]]),
            np.array([[score.tokens for score in both]]),
        )
    marks = [np.concatenate([[score.start], score.token_ends]) for score in (model, other)]
    shared = np.intersect1d(marks[0], marks[1])
    nats, tokens = [], []
    for score, places in zip((model, other), marks, strict=True):
        # The last mark at a place: tokens of one character end there together.
        at = np.searchsorted(places, shared, side="right") - 1
        so_far = np.concatenate([[0.0], np.cumsum(score.token_nats, dtype=np.float64)])
        nats.append(np.diff(so_far[at]))
        tokens.append(np.diff(at))
    start = int(shared[0]) if len(shared) else 0
    return Segments(start, shared[1:].astype(np.int64), np.stack(nats, 1), np.stack(tokens, 1))


def difference(model: Perplexity, other: Perplexity, texts: Sequence[str], *, seed: int = 0) -> Difference:
    """Compare two models on the bytes that both scored.

    The interval is a block bootstrap's (10,000 draws of whole documents, long ones cut into blocks of about
    half a kB), widened for few blocks as by Hesterberg (arXiv 1411.5279, "expanded percentile").

    Args:
        model: the scores of the model that is judged.
        other: the scores of what it is held against, on the same texts.
        texts: those texts.
        seed: of the draws.

    Raises:
        EvaluationError: the scores are not of these texts.
    """
    texts = [texts] if isinstance(texts, str) else texts
    if not len(model.documents) == len(other.documents) == len(texts):
        raise EvaluationError(
            f"{model.model} was scored on {len(model.documents)} document(s), {other.model} on"
            f" {len(other.documents)}, and {len(texts)} are given. Score both on the same texts."
        )
    blocks = np.concatenate(
        [
            _blocks(parts := segments(*scores), parts.nats[:, 0] - parts.nats[:, 1], text)
            for *scores, text in zip(model.documents, other.documents, texts, strict=True)
        ]
    )
    total = blocks.sum(0)
    if not total[1]:
        raise EvaluationError(
            f"{model.model} and {other.model} scored no text in common. Give a longer text."
        )
    draws = _draws(blocks, seed) if len(blocks) >= _FEWEST_BLOCKS else None
    per_byte = 1 / math.log(2)
    same_tokens = bool(total[2] == total[3]) and all(
        np.array_equal(one.token_ends, two.token_ends)
        for one, two in zip(model.documents, other.documents, strict=True)
    )
    ratios = None
    if same_tokens and draws is not None:
        low, high = _interval(draws[:, 0] / draws[:, 2], len(blocks))
        ratios = exponential(low), exponential(high)
    return Difference(
        model.model,
        other.model,
        float(total[0] / total[1]) * per_byte,
        None if draws is None else _interval(draws[:, 0] / draws[:, 1] * per_byte, len(blocks)),
        exponential(float(total[0] / total[2])) if same_tokens else None,
        ratios,
        int(total[1]),
        len(blocks),
    )


def interval(score: Perplexity, texts: Sequence[str], *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of a model's bits per byte, by the same bootstrap: how far another text of the kind may lead.

    Two models read one text, so their difference is known much better than this: see `difference`.

    Args:
        score: the model's score.
        texts: the texts that it is of.
        seed: of the draws.

    Returns:
        None with too little text for one.

    Raises:
        EvaluationError: the score is not of these texts.
    """
    texts = [texts] if isinstance(texts, str) else texts
    if len(score.documents) != len(texts):
        raise EvaluationError(
            f"{score.model} was scored on {len(score.documents)} document(s), and {len(texts)} are given."
            " Give those texts."
        )
    blocks = np.concatenate(
        [
            _blocks(parts := segments(document, document), parts.nats[:, 0], text)
            for document, text in zip(score.documents, texts, strict=True)
        ]
    )
    if len(blocks) < _FEWEST_BLOCKS:
        return None
    draws = _draws(blocks, seed)
    return _interval(draws[:, 0] / draws[:, 1] / math.log(2), len(blocks))


def _blocks(parts: Segments, nats: NDArray[np.float64], text: str) -> NDArray[np.float64]:
    """A row a block: nats (of the model, or minus the other's), bytes, and the tokens of both."""
    if not len(parts.ends):
        return np.empty((0, 4))
    pieces = np.diff(_byte_ends(parts, text), prepend=0)
    rows = np.column_stack([nats, pieces, parts.tokens])
    count = max(1, round(pieces.sum() / _BLOCK_BYTES))
    block = np.minimum((np.cumsum(pieces) - pieces) * count // max(pieces.sum(), 1), count - 1)
    sums = np.zeros((count, 4))
    np.add.at(sums, block.astype(int), rows)
    return sums[sums[:, 1] > 0]


def _byte_ends(parts: Segments, text: str) -> NDArray[np.int64]:
    """Where each segment ends, in bytes from the start of the first."""
    widths = np.fromiter((len(character.encode()) for character in text), np.int64, len(text))
    so_far = np.concatenate([[0], np.cumsum(widths)])
    ends: NDArray[np.int64] = so_far[parts.ends] - so_far[parts.start]
    return ends


def _draws(blocks: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """(draws, 4): sums over as many blocks as there are, drawn with replacement."""
    generator = np.random.default_rng(seed)
    count = len(blocks)
    at_once = max(1, 4_000_000 // count)  # counts of draws that are in memory together
    even = np.full(count, 1 / count)
    sums = [
        generator.multinomial(count, even, size=min(at_once, _DRAWS - done)) @ blocks
        for done in range(0, _DRAWS, at_once)
    ]
    return np.concatenate(sums)


def _interval(drawn: NDArray[np.float64], count: int) -> tuple[float, float]:
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * _student(1 - (1 - LEVEL) / 2, count - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _student(share: float, freedom: int) -> float:
    """The quantile of Student's t by Cornish and Fisher's expansion; within 1 % from 4 degrees on."""
    z = NormalDist().inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))

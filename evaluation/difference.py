"""Whether one model predicts a text better than another, and where: the same text, read by both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from checkpoints.problems import Problem
from evaluation.error import EvaluationError
from evaluation.jackknife import ENOUGH_UNITS, FEWEST_UNITS, Estimate, estimate_ratio
from evaluation.perplexity import DocumentScore, Perplexity, exponential
from evaluation.remark import Remark

# One to four documents are cut into blocks of at least this many bytes, and into at most this many blocks: neighbouring
# tokens are not independent, and neighbouring paragraphs nearly are; longer blocks of longer texts are more so.
_BLOCK_BYTES = 512
_MOST_BLOCKS = 32
# Smaller differences in bits per byte are not worth more text.
_WORTH_DETECTING = 0.01
_BITS = 1 / math.log(2)

Verdict = Literal["better", "worse", "none", "short"]
# What is said of a verdict with an interval.
_VERDICTS = {"better": "difference-better", "worse": "difference-worse", "none": "difference-none"}


@dataclass(frozen=True)
class Difference:
    """How much better or worse a model predicts a text than another, with 95 % intervals.

    Attributes:
        model: the model to judge, such as a merge.
        other: what it is compared with, such as a parent.
        bits_per_byte: the model's minus the other's; below 0 the model is better.
        interval: its 95 % interval; None with too little text for one.
        perplexity_ratio: the model's perplexity divided by the other's; None for different tokenizers.
        perplexity_interval: its 95 % interval.
        bytes: UTF-8 bytes that both scored.
        documents: distinct documents in which both scored text. Five or more are the interval's units.
        blocks: how many blocks of one to four documents are its units instead; None where documents are. Such an
            interval holds for these documents, not for others like them.
        detectable: the smallest true difference that a text like this shows with a probability of 80 %; None without an
            interval.
        more_documents: about how many more documents like these would show a difference of `wanted`; None where these
            show it already, or where their spread is unknown.
        wanted: bits per byte: the difference that was found, and at least 0.01.
        has_outlier: whether there is no interval because one of fewer than 20 units decides the result.
    """

    model: str
    other: str
    bits_per_byte: float
    interval: tuple[float, float] | None
    perplexity_ratio: float | None
    perplexity_interval: tuple[float, float] | None
    bytes: int
    documents: int
    blocks: int | None = None
    detectable: float | None = None
    more_documents: int | None = None
    wanted: float = _WORTH_DETECTING
    has_outlier: bool = False

    @property
    def verdict(self) -> Verdict:
        """better or worse, if the whole interval says so; none; short with too little text to tell."""
        if self.interval is None:
            return "short"
        if self.interval[1] < 0:
            return "better"
        return "worse" if self.interval[0] > 0 else "none"

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The verdict, what it holds for, and what would decide it."""
        said = [self._verdict_remark]
        if self.verdict == "none" and self.detectable:
            said.append(Remark("difference-detectable", {"value": self.detectable}))
        if self.verdict == "none" and self.more_documents is not None:
            said.append(Remark("difference-more", {"count": self.more_documents, "value": self.wanted}))
        if self.verdict != "short" and self.blocks is not None:
            values = {"blocks": self.blocks, "documents": self.documents, "least": FEWEST_UNITS}
            said.append(Remark("difference-blocks", values))
        if self.perplexity_ratio is None:
            said.append(Remark("difference-tokenizers"))
        return tuple(said)

    @property
    def words(self) -> str:
        """All remarks, in English."""
        return " ".join(map(str, self.remarks))

    @property
    def _verdict_remark(self) -> Remark:
        models = {"model": self.model, "other": self.other}
        if self.interval is not None:
            low, high = self.interval
            figures = {"value": self.bits_per_byte, "low": low, "high": high}
            return Remark(_VERDICTS[self.verdict], {**models, **figures})
        if self.has_outlier and self.blocks is None:
            return Remark(
                "difference-outlier", {**models, "documents": self.documents, "least": ENOUGH_UNITS}
            )
        if self.has_outlier:
            return Remark(
                "difference-outlier-block", {**models, "blocks": self.blocks, "least": ENOUGH_UNITS}
            )
        given = {"documents": self.documents, "bytes": self.bytes}
        wanted = {"least": FEWEST_UNITS, "least_bytes": FEWEST_UNITS * _BLOCK_BYTES}
        return Remark("difference-short", {**models, **given, **wanted})

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "verdict": self.verdict, "words": self.words}


@dataclass(frozen=True)
class Segments:
    """Pieces of one document that begin and end at a token's end for both models.

    With one tokenizer a segment is a token (or the tokens of one character).

    Attributes:
        start: where the first begins, in characters.
        ends: (n,) where each ends, in characters.
        nats: (n, 2) float64, negative log-likelihood of each by the model and by the other.
        tokens: (n, 2) the tokens in each.
    """

    start: int
    ends: NDArray[np.int64]
    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]


def segments(model: DocumentScore, other: DocumentScore) -> Segments:
    """Cut a document that two models scored at the boundaries that their tokens share.

    What only one of them scored (the first character, without BOS) belongs to no segment.
    """
    marks = [np.concatenate([[score.start], score.token_ends]) for score in (model, other)]
    shared = _common(*marks)
    nats, tokens = [], []
    for score, places in zip((model, other), marks, strict=True):
        # The last mark at a place: tokens of one character end there together.
        at = np.searchsorted(places, shared, side="right") - 1
        so_far = np.concatenate([[0.0], np.cumsum(score.token_nats, dtype=np.float64)])
        nats.append(np.diff(so_far[at]))
        tokens.append(np.diff(at))
    start = int(shared[0]) if len(shared) else 0
    return Segments(start, shared[1:], np.stack(nats, 1), np.stack(tokens, 1))


def _common(one: NDArray[np.int32], two: NDArray[np.int32]) -> NDArray[np.int64]:
    """The places, from 0 on, that are in both, in order. numpy's own `intersect1d` is slow on consecutive numbers."""
    held = np.zeros((2, 1 + max(int(one.max()), int(two.max()))), bool)
    held[0, one] = held[1, two] = True
    return np.flatnonzero(held[0] & held[1])


def difference(model: Perplexity, other: Perplexity, texts: Sequence[str]) -> Difference:
    """Compare two models on the bytes that both scored.

    The interval is Student's t on the jackknife over documents, see `estimate_ratio`.

    >>> found = difference(perplexity(model, texts), perplexity(other, texts), texts)  # doctest: +SKIP

    Args:
        model: the scores of the model to judge.
        other: the scores of what it is compared with, on the same texts.
        texts: those texts.

    Raises:
        EvaluationError: the scores are not of these texts.
    """
    texts = [texts] if isinstance(texts, str) else texts
    if not len(model.documents) == len(other.documents) == len(texts):
        values = {
            "model": model.model,
            "count": len(model.documents),
            "other": other.model,
            "other_count": len(other.documents),
            "given": len(texts),
        }
        raise EvaluationError(Problem("other-texts", values))
    units = _Units.of(list(zip(model.documents, other.documents, strict=True)), texts)
    if not len(units.rows):
        values = {"model": model.model, "other": other.model}
        raise EvaluationError(Problem("no-common-text", values))
    apart = units.rows[:, 0] - units.rows[:, 1]
    size, own_tokens = units.rows[:, 2], units.rows[:, 3]
    found = estimate_ratio(apart * _BITS, size)
    same_tokens = all(
        np.array_equal(one.token_ends, two.token_ends)
        for one, two in zip(model.documents, other.documents, strict=True)
    )
    ratio = estimate_ratio(apart, own_tokens) if same_tokens else None
    ratio_interval = None
    if ratio and ratio.interval and found.interval:
        low, high = ratio.interval
        ratio_interval = exponential(low), exponential(high)
    wanted = max(abs(found.value), _WORTH_DETECTING)
    return Difference(
        model.model,
        other.model,
        found.value,
        found.interval,
        exponential(ratio.value) if ratio else None,
        ratio_interval,
        int(size.sum()),
        units.documents,
        len(units.rows) if units.are_blocks else None,
        found.detectable,
        None if units.are_blocks else _more(found, wanted),
        wanted,
        found.has_outlier,
    )


def interval(score: Perplexity, texts: Sequence[str]) -> tuple[float, float] | None:
    """The 95 % interval of a model's bits per byte: where another text of the kind may lead.

    Two models read one text, so their difference is known much better than this: see `difference`.

    >>> low, high = interval(perplexity(model, texts), texts)  # doctest: +SKIP

    Args:
        score: the model's score.
        texts: the texts that were scored.

    Returns:
        None with too little text for one.

    Raises:
        EvaluationError: the score is not of these texts.
    """
    texts = [texts] if isinstance(texts, str) else texts
    if len(score.documents) != len(texts):
        values = {"model": score.model, "count": len(score.documents), "given": len(texts)}
        raise EvaluationError(Problem("other-text", values))
    units = _Units.of([(document, document) for document in score.documents], texts)
    return estimate_ratio(units.rows[:, 0] * _BITS, units.rows[:, 2]).interval if len(units.rows) else None


def _more(found: Estimate, wanted: float) -> int | None:
    """About how many more units like these would detect a difference, in two digits."""
    needed = found.units_to_detect(wanted)
    if needed is None or needed <= found.units:
        return None
    more = needed - found.units
    digit = int(10 ** max(len(str(more)) - 2, 0))
    return math.ceil(more / digit) * digit


@dataclass(frozen=True)
class _Units:
    """What an interval takes as independent.

    Attributes:
        rows: (n, 5) float64, a row for each unit: nats of both models, bytes, tokens of both models.
        documents: how many distinct documents they are of.
        are_blocks: whether they are blocks of one to four documents.
    """

    rows: NDArray[np.float64]
    documents: int
    are_blocks: bool

    @classmethod
    def of(cls, scores: Sequence[tuple[DocumentScore, DocumentScore]], texts: Sequence[str]) -> _Units:
        """Documents, each as often as it was given in one unit; or blocks of them, if there are fewer than five."""
        distinct: dict[tuple[object, ...], list[NDArray[np.float64]]] = {}
        for pair, text in zip(scores, texts, strict=True):
            rows = _rows(segments(*pair), text)
            if len(rows):
                # One text has one score; a text with two, which no model gives, would be two documents.
                distinct.setdefault((text, *(score.nats for score in pair)), []).append(rows)
        documents = [rows[0] * len(rows) for rows in distinct.values()]
        if not documents:
            return cls(np.empty((0, 5)), 0, False)
        if len(documents) >= FEWEST_UNITS:
            return cls(np.stack([rows.sum(0) for rows in documents]), len(documents), False)
        size = sum(float(rows[0][:, 2].sum()) for rows in distinct.values())
        block = max(_BLOCK_BYTES, size / _MOST_BLOCKS)
        blocks = [
            _blocks(rows, block * len(same)) for rows, same in zip(documents, distinct.values(), strict=True)
        ]
        return cls(np.concatenate(blocks), len(documents), True)


def _rows(parts: Segments, text: str) -> NDArray[np.float64]:
    """(n, 5): nats of both models, bytes, and tokens of both models, for each segment."""
    if not len(parts.ends):
        return np.empty((0, 5))
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)  # of UTF-8
    so_far = np.concatenate([[0], np.cumsum(widths)])
    sizes = np.diff(so_far[parts.ends], prepend=so_far[parts.start])
    return np.column_stack([parts.nats, sizes, parts.tokens])


def _blocks(rows: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """Sums over consecutive rows, of about `size` bytes each."""
    sizes = rows[:, 2]
    count = max(1, round(sizes.sum() / size))
    block = (np.cumsum(sizes) - sizes) * count // sizes.sum()
    begins = np.flatnonzero(np.diff(block, prepend=-1))
    sums: NDArray[np.float64] = np.add.reduceat(rows, begins)
    return sums

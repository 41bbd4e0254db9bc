"""How often intervals hold the truth, and how often a verdict is false, by simulation.

Documents are made of blocks. A block's difference between two models is the true difference, plus an effect of its
document, plus noise of its own; the intraclass correlation (ICC) is the document's share of the variance. Effects of
documents have tails of four kinds. The true difference is 0, so every verdict but "no difference" is false, and at most
5 % should be. "Too little text" is counted by itself: a cell reads "covered of answered, false verdicts of all".

python -m bench.coverage [--trials 4000] [--seed 0]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evaluation.difference import difference
from evaluation.jackknife import estimate_ratio
from evaluation.perplexity import DocumentScore, Perplexity

Array = NDArray[np.float64]
BLOCKS = 8  # in a document, on average
DOCUMENTS = (5, 8, 11, 22, 50, 100)
# Effects of documents, of mean 0 and variance 1.
TAILS: Mapping[str, Callable[[Generator, int], Array]] = {
    "normal": lambda random, n: random.normal(size=n),
    "Student's t, 3": lambda random, n: random.standard_t(3, size=n) / np.sqrt(3),
    "exponential": lambda random, n: random.exponential(size=n) - 1,
    "lognormal": lambda random, n: (random.lognormal(size=n) - np.exp(0.5)) / np.sqrt(np.e**2 - np.e),
}
# Lengths of documents in blocks; those of "even" ones are all the same, the longest of "uneven" ones are many times the
# shortest.
LENGTHS: Mapping[str, Callable[[Generator, int], Array]] = {
    "even": lambda _, n: np.full(n, float(BLOCKS)),
    "uneven": lambda random, n: BLOCKS * random.lognormal(-0.32, 0.8, size=n),
}


@dataclass(frozen=True)
class Coverage:
    """How a setting fared.

    Attributes:
        answered: share of trials with an interval.
        covered: share of these intervals that hold the truth; should be 0.95.
        false: share of all trials with a false verdict; should be 0.05 or less.
    """

    answered: float
    covered: float
    false: float


def coverage(intervals: Iterable[tuple[float, float] | None], truth: float = 0.0) -> Coverage:
    """Count intervals, None for those that were refused."""
    found = list(intervals)
    given = [one for one in found if one is not None]
    held = sum(low <= truth <= high for low, high in given)
    answered = len(given) / len(found)
    return Coverage(answered, held / max(len(given), 1), (len(given) - held) / len(found))


def drawn(
    random: Generator, documents: int, lengths: str, tails: str, correlation: float
) -> tuple[Array, Array]:
    """Differences, (n,) summed over each document, and the documents' (n,) lengths."""
    sizes = LENGTHS[lengths](random, documents)
    of_document = np.sqrt(correlation) * TAILS[tails](random, documents) * sizes
    of_blocks = np.sqrt((1 - correlation) * sizes) * random.normal(size=documents)
    return of_document + of_blocks, sizes


def over_documents(
    random: Generator, trials: int, documents: int, lengths: str, tails: str, correlation: float
) -> Coverage:
    """Intervals over documents."""
    return coverage(
        estimate_ratio(*drawn(random, documents, lengths, tails, correlation)).interval for _ in range(trials)
    )


def over_blocks(random: Generator, trials: int, documents: int, size: int, memory: float) -> Coverage:
    """Intervals over blocks of few documents, by `difference` itself.

    Args:
        random: the source of randomness.
        trials: how many.
        documents: one to four.
        size: bytes of each; a token has four.
        memory: correlation of the differences of neighbouring tokens.
    """
    ends = np.arange(4, size + 1, 4, dtype=np.int32)
    texts = [str(number) * size for number in range(documents)]

    def score(name: str, nats: Array) -> Perplexity:
        each = tuple(
            DocumentScore(float(row.sum()), len(row), size, size, 0, row.astype(np.float32), ends)
            for row in nats
        )
        total, tokens = float(nats.sum()), nats.size
        bits = total / np.log(2) / size / documents
        return Perplexity(
            name, None, 1.0, total, tokens, size * documents, size * documents, bits, bits, 64, 32, True,
            "float32", 1.0, each,
        )  # fmt: skip

    def intervals() -> Iterator[tuple[float, float] | None]:
        for _ in range(trials):
            noise = random.normal(size=(documents, len(ends)))
            for at in range(1, len(ends)):
                noise[:, at] = memory * noise[:, at - 1] + np.sqrt(1 - memory**2) * noise[:, at]
            yield difference(score("a", 5 + noise), score("b", np.full_like(noise, 5.0)), texts).interval

    return coverage(intervals())


def power(random: Generator, trials: int, documents: int, correlation: float) -> tuple[float, float]:
    """How often a true difference is seen that the median sample calls just detectable, and that difference."""
    samples = [drawn(random, documents, "even", "normal", correlation) for _ in range(trials)]
    detectable = float(np.nanmedian([estimate_ratio(*one).detectable or np.nan for one in samples]))
    seen = [estimate_ratio(apart + detectable * sizes, sizes).interval for apart, sizes in samples]
    return sum(one is not None and one[0] > 0 for one in seen) / trials, detectable


def tables(trials: int, seed: int) -> Iterator[str]:
    """The tables of docs/judging.md, line by line, as Markdown."""
    random = np.random.default_rng(seed)
    yield "| documents | " + " | ".join(f"{lengths}, ICC {icc}" for lengths, icc in _PLAIN) + " |"
    yield "|--:|" + "--:|" * len(_PLAIN)
    for documents in DOCUMENTS:
        cells = [over_documents(random, trials, documents, lengths, "normal", icc) for lengths, icc in _PLAIN]
        yield _row(documents, cells)
    yield ""
    yield "| documents | " + " | ".join(f"{tails}, {lengths}" for tails, lengths in _TAILED) + " |"
    yield "|--:|" + "--:|" * len(_TAILED)
    for documents in DOCUMENTS:
        cells = [over_documents(random, trials, documents, lengths, tails, 1.0) for tails, lengths in _TAILED]
        yield _row(documents, cells)
    yield ""
    yield "| documents | a difference of the size called detectable is seen, ICC 0 | ICC 1 |"
    yield "|--:|--:|--:|"
    for documents in DOCUMENTS:
        seen = [power(random, trials, documents, icc)[0] for icc in (0.0, 1.0)]
        yield f"| {documents} | " + " | ".join(f"{one:.1%}" for one in seen) + " |"
    yield ""
    yield "| long documents | " + " | ".join(f"{size // 1024} KiB, {memory}" for size, memory in _LONG) + " |"
    yield "|--:|" + "--:|" * len(_LONG)
    for documents in (1, 4):
        cells = [over_blocks(random, max(trials // 10, 1), documents, size, memory) for size, memory in _LONG]
        yield _row(documents, cells)


_PLAIN = tuple(itertools.product(LENGTHS, (0.0, 0.2, 1.0)))
_TAILED = tuple(itertools.product([tails for tails in TAILS if tails != "normal"], LENGTHS))
_LONG = tuple(itertools.product((4096, 32768), (0.0, 0.9)))


def _row(documents: int, cells: Iterable[Coverage]) -> str:
    shown = " | ".join(f"{one.covered:.1%} of {one.answered:.0%}, {one.false:.1%}" for one in cells)
    return f"| {documents} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.coverage", description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for line in tables(options.trials, options.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()

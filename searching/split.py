"""Divides documents among the parts of a search, so that what is reported was never searched on.

A hash of the seed and of a document's text draws a number, which decides the part. Of a long text the shares are bounds
of that number: adding a document moves no other one, except a near duplicate. Of a short text chance could leave few
documents in some part, so its documents are ordered by their numbers and cut where the shares are reached: adding one
moves at most one other at each cut. Documents that are equal or nearly equal are in one part, also across texts.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from checkpoints.problems import Problem
from evaluation import EvaluationError
from searching.goals import PARTS, Part, Shares

# Runs of this many letters and digits are compared, and documents that share this much of them are near duplicates.
_RUN = 12
_ALIKE = 0.7
# Of each document, the runs with the smallest hashes; documents that share none of them are not compared.
_SKETCH = 32
# Texts with fewer documents than this are cut by count.
FEW = 100


@dataclass(frozen=True)
class Document:
    """One document, or question.

    Args:
        text: as it is scored
        part: that it belongs to
        digest: 16 hexadecimal digits of its text
    """

    text: str
    part: Part
    digest: str


def digest(text: str) -> str:
    """16 hexadecimal digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_documents(
    texts: Mapping[str, Sequence[str]],
    shares: Shares,
    given: Mapping[str, Mapping[Part, Sequence[str]]] | None = None,
    *,
    alike: bool = True,
) -> dict[str, tuple[Document, ...]]:
    """Divide documents among the parts.

    Args:
        texts: documents by the name of their text
        shares: of the parts, and the seed of the hash
        given: the same for texts whose parts are given
        alike: keep near duplicates in one part

    Returns:
        The documents by the name of their text, those of `texts` in their order; equal ones of a text once.

    Raises:
        EvaluationError: a document, or a near duplicate of it, is in two parts that were given.
    """
    fixed = given or {}
    entries: list[tuple[str, str, Part | None]] = [
        (name, text, None) for name, found in texts.items() for text in dict.fromkeys(found)
    ]
    entries += [
        (name, text, part)
        for name, by_part in fixed.items()
        for part in PARTS
        for text in dict.fromkeys(by_part[part])
    ]
    written = [text for _, text, _ in entries]
    groups = near_duplicates(written) if alike else [(index,) for index in range(len(written))]
    found: dict[str, list[Document]] = {name: [] for name in (*texts, *fixed)}
    parts = _parts(groups, entries, shares)
    numbers = {index: number for number, group in enumerate(groups) for index in group}
    for index, (name, text, _) in enumerate(entries):
        found[name].append(Document(text, parts[numbers[index]], digest(text)))
    return {name: tuple(documents) for name, documents in found.items()}


def _parts(
    groups: Sequence[Sequence[int]], entries: Sequence[tuple[str, str, Part | None]], shares: Shares
) -> list[Part]:
    """The part of each group of near duplicates."""
    parts = [_given(group, entries) for group in groups]
    drawn = [min((entries[index][1] for index in group), key=digest) for group in groups]
    by_text: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        for name in dict.fromkeys(entries[index][0] for index in group):
            by_text[name].append(number)
    for name, numbers in sorted(by_text.items()):
        sizes = {
            number: sum(entries[index][0] == name for index in groups[number])
            for number in sorted(numbers, key=lambda number: (_drawn(drawn[number], shares.seed), number))
        }
        if sum(sizes.values()) < FEW:
            _cut(sizes, parts, shares)
    return [part or part_of(text, shares) for part, text in zip(parts, drawn, strict=True)]


def _given(group: Sequence[int], entries: Sequence[tuple[str, str, Part | None]]) -> Part | None:
    """The part that a group of near duplicates was given.

    Raises:
        EvaluationError: these are two.
    """
    given = {part: index for index in group if (part := entries[index][2])}
    if len(given) > 1:
        ordered = [part for part in PARTS if part in given]
        (one, other), indices = ordered[:2], [given[part] for part in ordered[:2]]
        values = {
            "text": " ".join(entries[indices[0]][1].split())[:80],
            "names": sorted({entries[index][0] for index in indices}),
            "one": one,
            "other": other,
        }
        raise EvaluationError(Problem("document-in-two-parts", values))
    return next(iter(given), None)


def _cut(sizes: Mapping[int, int], parts: list[Part | None], shares: Shares) -> None:
    """Give each group of a short text that has no part yet one, so that the shares are kept.

    Args:
        sizes: documents of each group in this text, in the order that the hash draws
        parts: of all groups; filled in
    """
    counts = dict(zip(PARTS, _counts(sum(sizes.values()), shares), strict=True))
    for number, size in sizes.items():
        if part := parts[number]:
            counts[part] -= size
    free = [number for number in sizes if parts[number] is None]
    for part in PARTS:
        later = sum(counts[other] > 0 for other in PARTS[PARTS.index(part) + 1 :])
        while counts[part] > 0 and len(free) > later:
            counts[part] -= sizes[free[0]]
            parts[free.pop(0)] = part
    for number in free:  # all parts have their share
        parts[number] = PARTS[-1]


def _counts(documents: int, shares: Shares) -> tuple[int, int, int]:
    """How many documents each part gets: one at least, if there are three.

    >>> _counts(24, Shares(0.5, 0.2, 0.3))
    (12, 5, 7)
    """
    first = math.floor(documents * shares.search + 0.5)
    second = math.floor(documents * (shares.search + shares.choice) + 0.5)
    if documents >= len(PARTS):
        first = min(max(first, 1), documents - 2)
        second = min(max(second, first + 1), documents - 1)
    return first, second - first, documents - second


def part_of(text: str, shares: Shares) -> Part:
    """The part that a document of a long text is in, if it has no near duplicates."""
    drawn = _drawn(text, shares.seed)
    if drawn < shares.search:
        return "search"
    return "choice" if drawn < shares.search + shares.choice else "report"


def _drawn(text: str, seed: int) -> float:
    """A number from 0 to 1 that a seed and a text draw."""
    hashed = hashlib.sha256(f"{seed} {_letters(text)}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Groups of texts that are equal or nearly equal, as indices; a text without near duplicates is a group.

    Two texts are nearly equal if they share 70 % of their runs of 12 letters and digits. Case, spaces and punctuation
    do not count.
    """
    runs = [_runs(_letters(text)) for text in texts]
    holders: dict[int, list[int]] = defaultdict(list)
    leader = list(range(len(texts)))

    def root(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for index, own in enumerate(runs):
        sketch = sorted(own)[:_SKETCH]
        for other in {other for run in sketch for other in holders[run]}:
            if root(other) != root(index) and _are_alike(own, runs[other]):
                leader[root(index)] = root(other)
        for run in sketch:
            holders[run].append(index)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        groups[root(index)].append(index)
    return [tuple(group) for group in groups.values()]


def _letters(text: str) -> str:
    """Letters and digits alone, in one case and one form."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or text


def _runs(letters: str) -> frozenset[int]:
    """Hashes of its runs."""
    found = {letters[at : at + _RUN] for at in range(max(len(letters) - _RUN, 0) + 1)}
    return frozenset(
        int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in found
    )


def _are_alike(one: frozenset[int], other: frozenset[int]) -> bool:
    shared = len(one & other)
    return shared >= _ALIKE * (len(one) + len(other) - shared)

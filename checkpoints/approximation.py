"""How to make the rows that a model lacks: for each token, which of the model's own rows make its row.

Every rule makes a row of rows of the same model, so that the result is in the space that the model's layers know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Rule = Literal["omp", "nearest", "subword", "mean"]
GuidedRule = Literal["omp", "nearest"]


@dataclass(frozen=True)
class Guided:
    """Tokens that another model, the guide, has rows for. Its rows of common tokens say what a token resembles.

    Args:
        rule: "omp": orthogonal matching pursuit; "nearest": the most similar tokens, by the cosine
        k: of how many common tokens a row is made
        guide: number of the guide in the alignment
        own: the model's rows of the common tokens
        theirs: the guide's rows of the same tokens, in the same order
        tokens: the guide's rows of the tokens that the model lacks
    """

    rule: GuidedRule
    k: int
    guide: int
    own: tuple[int, ...]
    theirs: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Subword:
    """Tokens whose row is the average of the rows of their pieces, as the model's own tokenizer cuts their text.

    Args:
        pieces: for each token, the model's rows of its pieces
    """

    pieces: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        return len(self.pieces)


@dataclass(frozen=True)
class Mean:
    """Tokens whose row is the average of the model's first rows.

    Args:
        count: of tokens
        rows: of the model, that are averaged
    """

    count: int
    rows: int


Approximation = Guided | Subword | Mean


def from_data(data: Mapping[str, Any]) -> Approximation:
    """From what `dataclasses.asdict` and JSON make of one."""
    if "guide" in data:
        rows = {name: tuple(data[name]) for name in ("own", "theirs", "tokens")}
        return Guided(data["rule"], data["k"], data["guide"], **rows)
    if "pieces" in data:
        return Subword(tuple(map(tuple, data["pieces"])))
    return Mean(data["count"], data["rows"])

"""One sentence about a result, as data: a code and values. Its English words are in `remark_texts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints.wording import Wording
from evaluation.remark_texts import WORDING


@dataclass(frozen=True)
class Remark:
    """What can be said of a result. `str()` says it in English.

    Attributes:
        code: short stable name, the key of its words in `remark_texts` ("difference-better").
        values: what its words are filled with, as JSON can write it.
    """

    code: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def phrase(self) -> dict[str, Any]:
        """The same as a value of another remark."""
        return {"phrase": self.code, **self.values}

    def words(self, wording: Wording) -> str:
        """It, by the rules and phrases of a language that has words for its code."""
        return wording.phrase(self.phrase)

    def __str__(self) -> str:
        return self.words(WORDING)

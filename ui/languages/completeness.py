"""How much of English a language says, and what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ui.languages.english import ENGLISH
from ui.languages.language import Language


@dataclass(frozen=True)
class Completeness:
    """What a language has of English.

    Args:
        tag: the language's
        total: entries of English
        missing: entries that it lacks and says in English, as "table: key"
        stale: entries that it has and English no longer does
    """

    tag: str
    total: int
    missing: tuple[str, ...]
    stale: tuple[str, ...]

    @property
    def percent(self) -> float:
        return 100 * (1 - len(self.missing) / self.total)

    def __str__(self) -> str:
        lines = [f"{self.tag}: {self.percent:.1f} % of {self.total} entries"]
        lines += [f"  missing  {entry}" for entry in self.missing]
        lines += [f"  stale    {entry}" for entry in self.stale]
        return "\n".join(lines)


def tables(language: Language) -> dict[str, Mapping[str, Any]]:
    """Everything that a language says, by the name of the table."""
    return {
        "page": language.page,
        "problems": language.problems,
        "phrases": language.wording.phrases,
        "methods": language.methods,
        "labels": language.labels,
    }


def completeness(language: Language) -> Completeness:
    """Compare a language with English."""
    english = {f"{table}: {key}": None for table, entries in tables(ENGLISH).items() for key in entries}
    own = {f"{table}: {key}": None for table, entries in tables(language).items() for key in entries}
    return Completeness(
        language.tag,
        len(english),
        tuple(entry for entry in english if entry not in own),
        tuple(entry for entry in own if entry not in english),
    )

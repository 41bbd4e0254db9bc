"""A merged model as the Hub lists it, and what its card says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.formats import format_of
from checkpoints.names import hub_id
from merging.licences import parent_of
from ui.gallery.figures import Figure, Gain, figures_of, over_best_parent
from ui.hub.recipes import RECIPE_FILES

# What the Hub is asked for, of each model.
EXPANDED = (
    "cardData", "createdAt", "gated", "likes", "model-index", "private", "safetensors", "sha", "siblings", "tags",
)  # fmt: skip
CARD = "README.md"
MOST_LANGUAGES, LONGEST_SAMPLE, MOST_FILES = 4, 400, 2000
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Sample:
    """A message and the model's answer, as its card shows them."""

    message: str
    answer: str


@dataclass(frozen=True)
class HubMerge:
    """A merged model.

    Args:
        name: owner/name
        commit: of what is described here
        parents: what its card says it was made from, at most four
        licence: empty if its card states none
        languages: codes of two or three letters
        parameters: 0 if unknown
        likes: on the Hub
        created: the day, as 2026-11-30; empty if unknown
        private: whether only some may see it
        recipe_file: the file that holds its recipe, or shows it; empty if it has none
        figures, gains: what its `model-index` says
        sample: a message and an answer, if its card shows one
        has_weights: whether it has a file that may hold weights; else it is a recipe alone, which cannot run
    """

    name: str
    commit: str
    parents: tuple[str, ...] = ()
    licence: str = ""
    languages: tuple[str, ...] = ()
    parameters: int = 0
    likes: int = 0
    created: str = ""
    private: bool = False
    recipe_file: str = ""
    figures: tuple[Figure, ...] = ()
    gains: tuple[Gain, ...] = ()
    sample: Sample | None = None
    has_weights: bool = True

    @classmethod
    def listed(cls, entry: Mapping[str, Any]) -> HubMerge | None:
        """From an entry of the Hub's list, which may lack any field; None if it is no model that can be named."""
        name, commit = entry.get("id"), entry.get("sha")
        if not isinstance(name, str) or not hub_id(name) or "/" not in name:
            return None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            return None
        card = entry.get("cardData")
        card = card if isinstance(card, dict) else {}
        about = parent_of(name, card)
        figures, gains = figures_of(entry.get("model-index") or card.get("model-index"))
        weights = entry.get("safetensors")
        return cls(
            name=name,
            commit=commit,
            parents=about.bases,
            licence=about.licence,
            languages=_languages(card.get("language")),
            parameters=_count(weights.get("total")) if isinstance(weights, dict) else 0,
            likes=_count(entry.get("likes")),
            created=_day(entry.get("createdAt")),
            private=entry.get("private") is not False,
            recipe_file=_recipe_file(entry.get("siblings")),
            figures=figures,
            gains=gains,
            sample=_sample(card.get("widget")),
            has_weights=_has_weights(entry.get("siblings")),
        )

    @property
    def gain(self) -> Gain | None:
        """The difference to its best parent, if its card has it."""
        return over_best_parent(self.gains, self.parents)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else 0


def _day(value: object) -> str:
    match = re.match(r"\d{4}-\d{2}-\d{2}", value) if isinstance(value, str) else None
    return match[0] if match else ""


def _languages(value: object) -> tuple[str, ...]:
    codes = value if isinstance(value, list) else [value]
    found = [code for code in codes[:50] if isinstance(code, str) and _LANGUAGE.fullmatch(code)]
    return tuple(dict.fromkeys(found))[:MOST_LANGUAGES]


def _recipe_file(siblings: object) -> str:
    """The file with the recipe: mergekit's, else the card, which shows it."""
    names = _names(siblings)
    return next((name for name in (*RECIPE_FILES, CARD) if name in names), "")


def _has_weights(siblings: object) -> bool:
    """Whether a file may hold weights; so may those beyond the first MOST_FILES."""
    names = _names(siblings)
    return not names or len(names) >= MOST_FILES or any(map(format_of, names))


def _names(siblings: object) -> set[str]:
    files = siblings[:MOST_FILES] if isinstance(siblings, list) else []
    found = (file.get("rfilename") for file in files if isinstance(file, dict))
    return {name for name in found if isinstance(name, str)}


def _sample(widget: object) -> Sample | None:
    """The first example of a card's `widget` that has an answer."""
    for one in widget[:10] if isinstance(widget, list) else []:
        if not isinstance(one, dict):
            continue
        output, message = one.get("output"), one.get("text")
        answer = output.get("text") if isinstance(output, dict) else None
        if isinstance(message, str) and isinstance(answer, str) and message.strip() and answer.strip():
            return Sample(message.strip()[:LONGEST_SAMPLE], answer.strip()[:LONGEST_SAMPLE])
    return None

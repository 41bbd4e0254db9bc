"""The text that a visitor types, and how long it may be on a server.

A tokenizer is its author's program, and the time that some take grows with the square of the longest word. So a server
measures a text before any tokenizer reads it: a message, a prompt of a recipe, a text to score, a row of a data set.
"""

from __future__ import annotations

from checkpoints.problems import Problem

# Characters of a text, and of what it has between two spaces: a paragraph of Chinese has hundreds.
MAX_CHARACTERS, MAX_WORD = 200_000, 20_000


def excess(text: str) -> Problem | None:
    """What makes a text too long for a server; None if nothing does."""
    if len(text) > MAX_CHARACTERS:
        return Problem("text-too-long", {"length": len(text), "most": MAX_CHARACTERS})
    longest = max(map(len, text.split()), default=0)
    return Problem("word-too-long", {"length": longest, "most": MAX_WORD}) if longest > MAX_WORD else None

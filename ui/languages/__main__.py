"""How complete each language is, and what is missing or stale: `python -m ui.languages`."""

from __future__ import annotations

from ui.languages.completeness import completeness
from ui.languages.registry import LANGUAGES

for language in LANGUAGES.values():
    print(completeness(language))

"""The languages of the page, by their tags. To add one, write a folder like `korean/` and name it here."""

from __future__ import annotations

from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN
from ui.languages.language import Language

LANGUAGES: dict[str, Language] = {language.tag: language for language in (ENGLISH, KOREAN)}

"""Korean."""

from __future__ import annotations

from ui.languages.korean.labels import LABELS
from ui.languages.korean.methods import METHODS
from ui.languages.korean.page import PAGE
from ui.languages.korean.problems import PROBLEMS
from ui.languages.korean.wording import WORDING
from ui.languages.language import Language

KOREAN = Language(tag="ko", wording=WORDING, page=PAGE, problems=PROBLEMS, methods=METHODS, labels=LABELS)

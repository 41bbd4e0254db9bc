"""What a language is: tables of sentences, and rules for filling values in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from checkpoints.problem_texts import Text
from checkpoints.wording import Template, Wording


@dataclass(frozen=True)
class Language:
    """A language of the page. What a table lacks is said in English.

    Args:
        tag: as browsers name it, such as "ko"
        wording: how values are filled in, the phrases that sentences are made of, and remarks about results
        page: sentences of the page, by key
        problems: words of problems, by code
        methods: what a merge method does, by its name, and what a parameter sets, by `method.parameter`
        labels: what `evaluation` calls things: `report.CODE` for rows of its table, `benchmark.NAME`
    """

    tag: str
    wording: Wording
    page: Mapping[str, Template] = field(default_factory=dict)
    problems: Mapping[str, Text] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

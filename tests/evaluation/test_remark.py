"""Every remark has words, every value that they name is given wherever it is made, and no words are left over."""

from __future__ import annotations

import ast

import pytest

from checkpoints.wording import placeholders
from evaluation.remark import Remark
from evaluation.remark_texts import REMARKS, WORDING
from tests.checkpoints.test_problems import FILES, made, templates

# Places whose codes come from a table, or from the log of a job. They are said by `test_difference`, `test_benchmark`,
# `test_footprint`, `searching/test_report` and `ui/rented/test_other_work`.
FROM_TABLES = {
    "evaluation/difference.py",
    "evaluation/paired.py",
    "evaluation/structure.py",
    "searching/names.py",
    "searching/report.py",
    "ui/rented/heal.py",
}


def test_every_remark_has_words_and_every_word_its_value() -> None:
    from_tables = set()
    for file, codes, values in made({"Remark": set()}):
        if not codes:
            from_tables.add(file)
        for code in codes:
            needed = set(placeholders(templates(REMARKS[code])[-1]))
            assert needed <= values, f"{file}: {code} lacks {needed - values}"

    assert from_tables == FROM_TABLES


def test_no_words_are_left_over() -> None:
    written = {
        node.value
        for path in FILES
        if path.name != "remark_texts.py" and "languages" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    # What `{...:phrase}` names in a template is data of `structure` and `sandbox`.
    assert [code for code in REMARKS if code not in written] == []


@pytest.mark.parametrize(
    ("remark", "words"),
    [
        (
            Remark("weights-unread", {"dtypes": ["C64", "F4"]}),
            "Tensors of C64, F4 were not read.",
        ),
        (
            Remark("weights-zero-rows", {"count": 1, "most": 1, "tensor": "w"}),
            "1 row is all zero, 1 of them in w.",
        ),
        (
            Remark("no-answer-alone", {"why": Remark("lacks-tensor", {"tensor": "w"}).phrase}),
            "With nothing else in reach it does not answer: it lacks w.",
        ),
        (
            Remark("no-answer-alone", {"why": "out of {memory}"}),
            "With nothing else in reach it does not answer: out of {memory}",
        ),
        (
            Remark("names-origin", {"place": "config.json", "key": "_name_or_path", "value": "/a"}),
            "config.json has _name_or_path: '/a'.",
        ),
    ],
)
def test_remarks_in_english(remark: Remark, words: str) -> None:
    assert str(remark) == remark.words(WORDING) == words

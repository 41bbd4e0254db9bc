"""Every sentence that is asked for is there, and every sentence is asked for."""

from __future__ import annotations

import ast
import inspect
import re
from string import Formatter
from textwrap import dedent

import gradio as gr
import pytest
from gradio.context import LocalContext

from checkpoints.problems import Place
from evaluation.benchmark import BENCHMARKS
from evaluation.report import Report
from merging import METHODS, Problem
from tests import ROOT
from ui.languages.korean.methods import KOREAN_METHODS
from ui.languages.korean.problems import KOREAN_PROBLEMS
from ui.languages.korean.report import KOREAN_REPORT
from ui.languages.translate import (
    ENGLISH,
    LANGUAGES,
    Said,
    in_each_language,
    language,
    of_registry,
    of_report,
    speaking,
    t,
)
from ui.methods.about import expects
from ui.widgets.html import problem_list

FILES = sorted((ROOT / "ui").rglob("*.py"))


def asked_for() -> tuple[set[str], set[str]]:
    """The keys in the code: whole ones, and beginnings of those that are put together."""
    whole, beginnings = set(), set()
    for path in FILES:
        if path.name == "translate.py" or path.parent.name == "korean":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ENGLISH:
                whole.add(node.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t":
                key = node.args[0]
                if isinstance(key, ast.Constant):
                    whole.add(str(key.value))
                elif isinstance(key, ast.JoinedStr) and isinstance(key.values[0], ast.Constant):
                    beginnings.add(str(key.values[0].value))
    return whole, beginnings


def test_no_sentence_is_missing() -> None:
    whole, beginnings = asked_for()

    assert whole <= ENGLISH.keys()
    assert all(any(key.startswith(start) for key in ENGLISH) for start in beginnings)


def test_no_sentence_is_left_over() -> None:
    whole, beginnings = asked_for()

    assert [key for key in ENGLISH if key not in whole and not key.startswith(tuple(beginnings))] == []


def fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}


def test_every_language_says_the_same() -> None:
    for table in LANGUAGES.values():
        assert table.keys() <= ENGLISH.keys()
        assert {key: fields(table[key]) for key in table} == {key: fields(ENGLISH[key]) for key in table}
        # The Score tab may be ahead of its translation; it then speaks English.
        assert [key for key in ENGLISH if key not in table and not key.startswith("score.")] == []


def test_the_registry_is_told_in_korean_too() -> None:
    said = {method.summary for method in METHODS.values()}
    said |= {parameter.help for method in METHODS.values() for parameter in method.parameters}

    assert said == KOREAN_METHODS.keys()
    with speaking("ko"):
        assert all(re.search("[가-힣]", of_registry(sentence)) for sentence in said)


def test_what_parameters_expect_is_told_as_the_registry_tells_it() -> None:
    parameters = [parameter for method in METHODS.values() for parameter in method.parameters]

    with speaking("en"):
        assert [expects(parameter) for parameter in parameters] == [one.expected() for one in parameters]
    with speaking("ko"):
        assert all(re.search("[가-힣]", expects(parameter)) for parameter in parameters)


def test_reports_have_korean_labels() -> None:
    table = ast.parse(dedent(inspect.getsource(Report.table)))
    rows = [node.elts[0] for node in ast.walk(table) if isinstance(node, ast.List) and len(node.elts) == 2]
    labels = {str(first.value) for first in rows if isinstance(first, ast.Constant) and first.value}

    assert labels | {"yes"} | set(BENCHMARKS.values()) == KOREAN_REPORT.keys()
    with speaking("ko"):
        assert of_report("files") == KOREAN_REPORT["files"]
        assert of_report("269 MB") == "269 MB"


def test_a_problem_of_the_engine_begins_in_korean() -> None:
    assert all(re.search("[가-힣]", sentence) for sentence in KOREAN_PROBLEMS.values())

    problem = Problem("unknown-method", {"name": "<b>", "near": "ties", "known": []}, Place(1, 15))
    english = 'There is no merge method &#39;&lt;b&gt;&#39;. <b class="fix">Did you mean &#39;ties&#39;?</b>'
    with speaking("en"):
        assert problem_list([problem]).count(f"</span> {english}</li>") == 1
    with speaking("ko"):
        said = problem_list([problem])
    assert f'<strong>{KOREAN_PROBLEMS["unknown-method"]}</strong> <span lang="en">{english}</span>' in said
    assert "1행 15열" in said


@pytest.mark.parametrize(
    ("asked", "spoken"),
    [("ko-KR,ko;q=0.9,en;q=0.8", "ko"), ("ko", "ko"), ("en-US", "en"), ("fr-FR,ko;q=0.5", "en"), ("", "en")],
)
def test_a_visitor_is_answered_in_the_browsers_language(asked: str, spoken: str) -> None:
    request = gr.Request(headers={"accept-language": asked})
    token = LocalContext.request.set(request)
    try:
        assert language() == spoken
        assert t("merge.button") == LANGUAGES[spoken]["merge.button"]
        assert t("jobs.tensors", done=3, total=5) == LANGUAGES[spoken]["jobs.tensors"].format(done=3, total=5)
    finally:
        LocalContext.request.reset(token)


def test_what_is_built_for_all_carries_every_language() -> None:
    said = in_each_language(lambda: f"<b>{t('merge.button')}</b>")

    assert isinstance(said, Said)
    assert said == "<b>Merge</b>"
    assert said.translations == {name: f"<b>{table['merge.button']}</b>" for name, table in LANGUAGES.items()}


def test_values_are_filled_in() -> None:
    assert t("jobs.tensors", done=3, total=5) == "3 of 5 tensors"

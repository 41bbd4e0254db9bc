"""Every sentence that is asked for is there, every sentence is asked for, and languages say the same."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable

import gradio as gr
import pytest
from gradio.context import LocalContext

from checkpoints.problems import Place, Problem
from checkpoints.wording import Template, Wording, placeholders
from evaluation.harness import BENCHMARKS
from evaluation.report import LABELS
from merging import METHODS, read_recipe
from merging.recipe.reader import RecipeError
from tests import ROOT
from ui.languages.completeness import completeness, tables
from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN
from ui.languages.language import Language
from ui.languages.registry import LANGUAGES
from ui.languages.translate import (
    Translated,
    current_language,
    in_each_language,
    label,
    method_summary,
    parameter_expects,
    parameter_help,
    problem_words,
    speaking,
    t,
)
from ui.widgets.html import problem_list

FILES = sorted(path for path in (ROOT / "ui").rglob("*.py") if "languages" not in path.parts[:-1])
FILES.append(ROOT / "ui/languages/translate.py")


def asked_for() -> tuple[set[str], set[str]]:
    """The keys in the code: whole ones, and beginnings of those that are put together."""
    whole, beginnings = set(), set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ENGLISH.page:
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

    assert whole <= ENGLISH.page.keys()
    assert all(any(key.startswith(start) for key in ENGLISH.page) for start in beginnings)


def test_no_sentence_is_left_over() -> None:
    whole, beginnings = asked_for()

    assert [key for key in ENGLISH.page if key not in whole and not key.startswith(tuple(beginnings))] == []


def templates(entry: Template | Iterable[Template]) -> list[str]:
    return [entry] if isinstance(entry, str) else [one for part in entry for one in templates(part)]


def values_of(entry: Template | Iterable[Template]) -> set[str]:
    return {name for template in templates(entry) for name in placeholders(template)}


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_translation_names_the_same_values_and_nothing_stale(tag: str) -> None:
    """What a language lacks is no fault: `make languages` reports it."""
    assert completeness(LANGUAGES[tag]).stale == ()
    for table, entries in tables(LANGUAGES[tag]).items():
        english = tables(ENGLISH)[table]
        assert {key: values_of(entries[key]) for key in entries} == {
            key: values_of(english[key]) for key in entries
        }


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_translation_can_be_filled_in(tag: str) -> None:
    """By the language's own rules: a form that a rule does not know would fail only before a visitor."""
    wording = LANGUAGES[tag].wording
    few = {"first": ["a"], "more": 2}
    for entries in tables(LANGUAGES[tag]).values():
        for template in (one for entry in entries.values() for one in templates(entry) if one):
            specs = re.findall(r"\{(\w+)(?:![rs])?:([^}]*)\}", template)
            values: dict[str, object] = dict.fromkeys(placeholders(template), 3)
            values |= {name: few for name, spec in specs if spec == "few"}
            values |= {name: ["a"] for name, spec in specs if spec in ("all", "and", "code", "each", "plain")}
            values |= {name: "x" for name, spec in specs if spec == "phrase"}
            assert wording.sentence(template, values)


def test_the_report_says_what_is_missing_and_what_is_stale() -> None:
    language = Language("xx", Wording(), {"merge.button": "Mischen", "gone": "Weg"})

    found = completeness(language)

    assert found.stale == ("page: gone",)
    assert "page: merge.cancel" in found.missing
    assert "problems: yaml" in found.missing
    assert "methods: slerp.t" in found.missing
    assert len(found.missing) == found.total - 1
    assert "  stale    page: gone" in str(found).splitlines()


def test_the_report_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ui.languages"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "en: 100.0 %" in done.stdout
    assert "ko: " in done.stdout


def test_a_third_language_is_a_folder_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A throw-away example that knows two sentences: everything else is English."""

    class Polish(Wording):
        def form(self, value: object, forms: object) -> str:
            return forms[0 if value == 1 else 1 if value in (2, 3, 4) else 2]  # type: ignore[index,no-any-return]

    polish = Language(
        tag="pl",
        wording=Polish(),
        page={"plan.shards": "{count} {count:plik|pliki|plików}"},
        methods={"slerp.t": "jak daleko"},
    )
    monkeypatch.setitem(LANGUAGES, "pl", polish)
    recipe = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"

    with speaking("pl"):
        assert [t("plan.shards", count=count) for count in (1, 3, 7)] == ["1 plik", "3 pliki", "7 plików"]
        assert t("merge.button") == "Merge"
        slerp = METHODS["slerp"]
        assert parameter_help(slerp, slerp.parameters[0]) == "jak daleko"
        assert method_summary(slerp) == slerp.summary
        assert label("report.files") == LABELS["files"]
        with pytest.raises(RecipeError) as caught:
            read_recipe(recipe)
        [problem] = caught.value.problems
        assert problem_words(problem) == (problem.message, problem.fix)
    assert in_each_language(lambda: t("plan.shards", count=3)).translations["pl"] == "3 pliki"  # type: ignore[attr-defined]


def test_methods_are_told_by_their_names() -> None:
    assert ENGLISH.methods["slerp.t"] == METHODS["slerp"].parameters[0].help
    assert KOREAN.methods["slerp.t"] != ENGLISH.methods["slerp.t"]
    with speaking("ko"):
        assert method_summary(METHODS["slerp"]) == KOREAN.methods["slerp"]


def test_what_parameters_expect_is_told_as_the_registry_tells_it() -> None:
    parameters = [parameter for method in METHODS.values() for parameter in method.parameters]

    with speaking("en"):
        told = [parameter_expects(parameter) for parameter in parameters]
    assert told == [one.expected() for one in parameters]


def test_labels_are_told_by_their_codes() -> None:
    assert {f"report.{code}" for code in LABELS} | {f"benchmark.{name}" for name in BENCHMARKS} == set(
        ENGLISH.labels
    )
    with speaking("ko"):
        assert label("report.files") == KOREAN.labels["report.files"]


def test_a_problem_is_told_in_the_visitors_language() -> None:
    problem = Problem("unknown-method", {"name": "<b>", "near": "ties", "known": []}, Place(1, 15))
    english = 'There is no merge method &#39;&lt;b&gt;&#39;. <b class="fix">Did you mean &#39;ties&#39;?</b>'

    with speaking("en"):
        assert problem_list([problem]).count(f"</span> {english}</li>") == 1
    with speaking("ko"):
        told = problem_list([problem])
    assert "1행 15열" in told
    assert "&#39;&lt;b&gt;&#39;" in told
    assert "There is no" not in told


def test_a_problem_with_a_parameter_says_its_meaning_in_the_visitors_language() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: [x]}"
        )
    problem = next(one for one in caught.value.problems if one.code == "parameter-value")

    with speaking("ko"):
        message, fix = problem_words(problem)
        assert parameter_expects(METHODS["slerp"].parameters[0]) in message
    assert KOREAN.methods["slerp.t"] in fix
    assert "'x'" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("모델", "모델은"),
        ("허브", "허브는"),
        ("3", "3은"),
        ("2", "2는"),
        ("a/b", "a/b은(는)"),
        ("", "은(는)"),
    ],
)
def test_korean_particles_follow_the_last_sound(name: str, said: str) -> None:
    assert KOREAN.wording.sentence("{name}{name:은|는}", {"name": name}) == said


@pytest.mark.parametrize(("name", "said"), [("서울", "서울로"), ("부산", "부산으로"), ("제주", "제주로")])
def test_a_final_l_takes_the_short_form(name: str, said: str) -> None:
    assert KOREAN.wording.sentence("{name}{name:으로|로}", {"name": name}) == said


@pytest.mark.parametrize(
    ("asked", "spoken"),
    [("ko-KR,ko;q=0.9,en;q=0.8", "ko"), ("ko", "ko"), ("en-US", "en"), ("zz-ZZ,ko;q=0.5", "en"), ("", "en")],
)
def test_a_visitor_is_answered_in_the_browsers_language(asked: str, spoken: str) -> None:
    request = gr.Request(headers={"accept-language": asked})
    token = LocalContext.request.set(request)
    language = LANGUAGES[spoken]
    try:
        assert current_language() == spoken
        assert t("merge.button") == language.page["merge.button"]
        tensors = language.wording.sentence(language.page["jobs.tensors"], {"done": 3, "total": 5})
        assert t("jobs.tensors", done=3, total=5) == tensors
    finally:
        LocalContext.request.reset(token)


def test_what_is_built_for_all_carries_every_language() -> None:
    said = in_each_language(lambda: f"<b>{t('merge.button')}</b>")

    assert isinstance(said, Translated)
    assert said == "<b>Merge</b>"
    assert said.translations == {
        tag: f"<b>{language.page.get('merge.button', 'Merge')}</b>" for tag, language in LANGUAGES.items()
    }


def test_values_are_filled_in() -> None:
    assert t("jobs.tensors", done=3, total=5) == "3 of 5 tensors"

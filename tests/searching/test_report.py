"""What a report says: its sentences by hand for every ending, and its tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from searching.names import named
from searching.plan import Measured
from searching.report import Comparison, SearchReport

AVERAGE = Comparison(
    "average", -0.0297, (-0.0345, -0.0249), 1e-9, 5e-9, "better", 0.025, {"a.txt": (-0.03, None)}
)
PARENT = Comparison("parent /home/me/math", -0.1, (-0.2, -0.01), 0.02, 0.04, "better", 0.02, {})
# Its interval leaves out 0, and the corrected p shows no difference.
EQUAL = replace(AVERAGE, difference=-0.012, interval=(-0.023, -0.001), p=0.04, adjusted=0.08, verdict="none")
REPORT = SearchReport(
    ending="better",
    advice="winner",
    winner="trial 3",
    point={"org/math.weight": 0.75},
    recipe="merge_method: linear\n",
    comparisons=(AVERAGE, PARENT),
    figures={"a.txt": {"trial 3": {"search": 0.9, "report": 1.0}, "average": {"search": 0.95}}},
    gains={"search": 0.05, "choice": 0.04, "report": 0.03},
    broken={},
    seeds={},
    spread={"org/math.weight": (0.5, 0.9)},
    front={},
    documents={"a.txt": {"search": 12, "choice": 5, "report": 7}},
    benchmarks={},
    trials={"ended": 9, "stopped": 2, "failed": 1},
    seconds=60.0,
    about={"by": "tpe", "seed": 0},
)


def ended(ending: Any, advice: str = "average", **more: Any) -> SearchReport:
    return replace(REPORT, ending=ending, advice=advice, **more)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (
            REPORT,
            "The best recipe is better than the plain average and math, on documents that the search never used "
            "(against the plain average: -0.0297, 95 % interval -0.0345 to -0.0249; p = 5e-09, corrected for 2 "
            "comparisons).",
        ),
        (
            ended("none", comparisons=(replace(EQUAL, interval=(-0.03, 0.01)),)),
            "No difference that this text can show between the best recipe and the plain average (-0.0120, 95 % "
            "interval -0.0300 to +0.0100; p = 0.08, corrected for 1 comparison). Take the simpler one: the plain "
            "average.",
        ),
        (
            ended("none", comparisons=(EQUAL, PARENT)),
            "No difference that this text can show between the best recipe and the plain average (-0.0120, 95 % "
            "interval -0.0230 to -0.0010; p = 0.08, corrected for 2 comparisons): among 2 comparisons an interval may "
            "leave out 0 by chance. Take the simpler one: the plain average.",
        ),
        (
            ended(
                "worse", "parent /home/me/math", comparisons=(replace(PARENT, difference=0.2, interval=None),)
            ),
            "Take math: it is better than the best recipe (+0.2000).",
        ),
        (
            ended("guards", broken={"english": 0.02, "chat": 0.5}),
            "On the report part the best recipe breaks a limit: english by 0.0200 and chat by 0.5000. Take the plain "
            "average, or allow more.",
        ),
        (
            ended("short"),
            "The report part has too few documents to tell the best recipe from the others. Take the plain average, "
            "or give more text.",
        ),
        (ended("no-winner"), "No trial kept the limits. Take the plain average, or allow more."),
        (
            ended("unfinished"),
            "The search was not finished, so its best recipe was not judged on the report part.",
        ),
    ],
)
def test_each_ending_in_a_sentence(report: SearchReport, words: str) -> None:
    assert str(report.verdict) == words == report.to_dict()["verdict"]
    assert words in report.markdown() and words in report.card()


def test_a_card_says_how_the_recipe_was_found() -> None:
    card = replace(REPORT, benchmarks={"kmmlu": 1}).card()

    assert card.startswith("## How the recipe was found\n\n")
    assert (
        "9 trials (tpe, seed 0), 2 of them stopped early and 1 failed. Searched on 12 documents, chosen on 5, reported "
        "on 7 others: a.txt. Searched on 1 question of kmmlu, so its score is no result." in card
    )


def test_tables_of_a_report() -> None:
    rows = replace(REPORT, seeds={"trial 3, seed 1": 0.91, "trial 3, seed 2": 0.92}).markdown().splitlines()

    assert "| the plain average | -0.0297 | -0.0345 to -0.0249 | 5e-09 | better |" in rows
    assert "| math | -0.1000 | -0.2000 to -0.0100 | 0.04 | better |" in rows
    assert str(REPORT.corrected) in rows and "corrected for 2 comparisons (Holm)" in str(REPORT.corrected)
    assert "| the best recipe | 0.9000 |  | 1.0000 |" in rows
    assert "| org/math.weight | 0.75 | 0.5 to 0.9 |" in rows
    assert "With other seeds: 0.9100, 0.9200." in rows
    assert (
        "Gain over the plain average: +0.0500 where it searched, +0.0400 where it chose, +0.0300 in the report. What "
        "is lost from left to right was chance." in rows
    )
    assert "What is lost" not in replace(REPORT, gains={"search": 0.05}).markdown()


def test_recipes_have_names() -> None:
    assert named("parent org/math") == {"phrase": "recipe-parent", "name": "org/math"}
    assert named("start greedy_soup") == {"phrase": "recipe-soup"}


@pytest.mark.parametrize(
    ("least", "last"),
    [
        (None, "The report part has too few documents to show any difference. Give more text."),
        (0.01, "The report part mostly shows differences of 0.0100 and more."),
        (0.2, "Searches seldom gain more than 0.05: give more text, or expect no verdict."),
    ],
)
def test_what_is_measured_before_the_start_in_sentences(least: float | None, last: str) -> None:
    said = list(map(str, Measured(2.5, 0.037, 30.0, 90.0, least).remarks))

    assert said[:2] == [
        "A trial takes 2.50 s, 0.037 s of them to make the model.",
        "The search takes about 1.5 minutes, or less.",
    ]
    assert said[-1] == last

"""Rules for answers: an example on either side of each, and how often they are right on labelled answers.

`labelled_answers.jsonl` has 200 answers, each with the fault that a person sees in it ("" for none). The rules were
tuned on every other one of them, from the first; the figures are those of the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.faults import faults
from tests import ROOT

ANSWERS = [
    json.loads(line) for line in Path(__file__).with_name("labelled_answers.jsonl").open(encoding="utf-8")
]
TUNED_ON, HELD_OUT = ANSWERS[::2], ANSWERS[1::2]


@pytest.mark.parametrize(
    ("prompt", "answer", "cut", "expected"),
    [
        ("Hi", "Hello there.", False, ()),
        ("Hi", " \n...", False, ("empty",)),
        ("Hi", "It is as it is, as far as I know.", False, ()),
        ("Hi", "to be or not " * 3, False, ("repeated",)),
        ("Hi", "to be or not " * 2, False, ()),
        ("Hi", "hahaaaaaaaaaaa", False, ("repeated",)),
        ("Hi", "----------", False, ("empty",)),
        ("Hi", "And so on and", True, ("cut",)),
        ("Hi", "안녕하세요", False, ("wrong language",)),
        ("Hi", "Annyeong, which is 안녕.", False, ()),
        ("안녕", "안녕하세요, Bob", False, ()),
        ("안녕", "Hello there, 안녕", False, ("wrong language",)),
        ("일주일은?", "7", False, ()),
    ],
)
def test_the_rules(prompt: str, answer: str, cut: bool, expected: tuple[str, ...]) -> None:
    assert faults(prompt, answer, cut=cut) == expected


def flagged(answers: list[dict[str, str]]) -> tuple[float, float, dict[str, int]]:
    """Precision, recall, and counts: answers "right"ly and "wrong"ly flagged, and "missed" with their own fault."""
    counts = {"right": 0, "wrong": 0, "missed": 0}
    for one in answers:
        found = faults(one["prompt"], one["answer"], cut=False)
        if one["fault"]:
            counts["right" if one["fault"] in found else "missed"] += 1
        elif found:
            counts["wrong"] += 1
    right = counts["right"]
    return right / (right + counts["wrong"]), right / (right + counts["missed"]), counts


def test_the_labelled_answers_are_many_and_of_many_kinds() -> None:
    assert len(ANSWERS) == 200
    assert len({(one["prompt"], one["answer"]) for one in ANSWERS}) == 200
    for half in (TUNED_ON, HELD_OUT):
        assert {"", "empty", "repeated", "wrong language"} == {one["fault"] for one in half}
        assert {"English", "Korean", "code", "table", "list", "poem", "JSON", "short", "asked"} <= {
            one["kind"] for one in half
        }


def test_the_rules_are_right_on_answers_that_they_were_not_tuned_on() -> None:
    precision, recall, counts = flagged(HELD_OUT)

    assert (precision >= 0.95, recall >= 0.95) == (True, True), counts
    said = (
        f"{len(HELD_OUT)} answers that the rules were not tuned on: precision {precision:.0%} "
        f"({counts['wrong']} good answers flagged), recall {recall:.0%} ({counts['missed']} bad ones missed)"
    )
    assert said in " ".join((ROOT / "docs/judging.md").read_text("utf-8").split())


def test_the_rules_are_right_on_what_they_were_tuned_on() -> None:
    assert flagged(TUNED_ON) == (1.0, 1.0, {"right": 40, "wrong": 0, "missed": 0})

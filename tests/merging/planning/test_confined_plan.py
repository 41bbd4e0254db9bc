"""A plan that another process makes is the same plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.confined import LimitError
from checkpoints.problems import RecipeError
from merging import make_plan, read_recipe
from merging.planning import confined_plan as module
from merging.planning.confined_plan import PlanRequest, confined_plan

LINEAR = """
merge_method: linear
models:
  - {{model: {0}/a, parameters: {{weight: 0.3}}}}
  - {{model: {0}/b, parameters: {{weight: [0, 1]}}}}
"""
REQUEST = PlanRequest(
    "", None, False, overwrite=False, pull_request=False, allow_folders=True, memory=1 << 33
)


def test_it_is_the_plan_that_this_process_makes(folder: Path, tmp_path: Path) -> None:
    text, to = LINEAR.format(folder), str(tmp_path / "out")

    found = confined_plan(replace(REQUEST, recipe=text, to=to))

    expected = make_plan(read_recipe(text), to, token=False, memory=1 << 33)
    assert found.ok
    assert replace(found, seconds=0) == replace(expected, seconds=0)
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("text", ["", "merge_method: lienar", "a: [", "merge_method: linear\nmodels: 7"])
def test_a_text_that_is_no_recipe_has_the_same_problems(text: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read_recipe(text)

    assert confined_plan(replace(REQUEST, recipe=text)).problems == raised.value.problems


def test_models_that_cannot_be_read_are_the_same_problems() -> None:
    text = LINEAR.format("/nowhere")

    found = confined_plan(replace(REQUEST, recipe=text))

    assert found.problems == make_plan(read_recipe(text), token=False).problems


def test_a_visitors_token_opens_what_the_visitor_may_read(alice: str) -> None:
    text = LINEAR.format("alice")

    mine, nobodys = (confined_plan(replace(REQUEST, recipe=text, token=token)) for token in (alice, False))

    assert mine.ok
    assert len(nobodys.problems) == 2


def test_a_plan_that_takes_too_much_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(_: object) -> None:
        raise LimitError("it exceeded its limit of time or memory")

    monkeypatch.setattr(module, "PLANNED", planned)

    found = confined_plan(replace(REQUEST, recipe="merge_method: linear"))

    assert [problem.code for problem in found.problems] == ["plan-limit"]
    assert "60 CPU seconds, 90 seconds in all" in found.problems[0].message

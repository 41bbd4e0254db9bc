"""Whatever is in the editor, form and sliders show it or say why not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from merging.planning.confined_fixes import offers
from tests.merging.recipe.fuzz import texts
from tests.merging.recipe.test_fuzz import problems_of
from ui.hub.recipes import recipe_in
from ui.languages.translate import problem_words, speaking
from ui.merge.form import spot_of
from ui.recipe.form_state import FormState, NotShown, field_setting, field_text, read, write
from ui.recipe.quick_fixes import quick_fixes
from ui.recipe.sliders import sliders_of


def check(text: str) -> None:
    problems = problems_of(text)
    state = FormState("linear")
    try:
        state = read(text)
        assert isinstance(write(state), str)
    except NotShown as reason:
        assert str(reason)
    for problem in problems:
        spot_of(state, text, problem.where)
        with speaking("ko"):
            assert problem_words(problem).message
    sliders_of(text)
    recipe_in(f"```yaml\n{text}\n```")
    field_text(field_setting(text[:200]))
    offered = offers(text, problems, lambda names: "")
    with speaking("ko"):
        buttons = quick_fixes(text, offered)
    assert len(buttons) == len(offered.fixes) + (offered.count > 1)


def test_the_page_quickly() -> None:
    settings(max_examples=40, deadline=None, derandomize=True)(given(texts)(check))()


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_the_page_at_length() -> None:
    settings(max_examples=10_000, deadline=None)(given(texts)(check))()

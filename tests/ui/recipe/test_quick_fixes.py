"""The fixes as buttons, and the fields that problems belong to."""

from __future__ import annotations

from checkpoints.problems import Place, Problem
from merging import MergeError, read_recipe
from merging.planning.confined_fixes import offers
from ui.languages.translate import speaking
from ui.merge.form import BASE, METHOD, PARAMETERS, spot_of
from ui.recipe.form_state import ModelEntry, read
from ui.recipe.quick_fixes import quick_fixes


def test_a_problem_belongs_to_a_field() -> None:
    recipe = (
        "merge_method: task_arithmetic\nbase_model: a/base\nmodels:\n  - model: a/one\n  - model: a/two\n"
        "    parameters: {weight: 1}\nparameters:\n  lambda: 1\n"
    )
    state = read(recipe)
    assert state.models == (ModelEntry("a/one"), ModelEntry("a/two", {"weight": 1}))

    spots: dict[Place | str, str | int | None] = {
        Place(1, 15): METHOD,
        Place(2, 13): BASE,
        Place(4, 12): 0,
        Place(6, 18): 1,
        Place(8, 3): PARAMETERS,
        "a/two": 1,
        "a/base": BASE,
        "nowhere": None,
    }

    assert {where: spot_of(state, recipe, where) for where in spots} == spots


def test_a_button_speaks_the_visitors_language() -> None:
    recipe = "merge_method: passthrough\nmodels: [{model: a/b, revision: v1}]\n"
    problem = Problem("revision-beside-model", {}, Place(2, 23))

    [english] = quick_fixes(recipe, offers(recipe, [problem], lambda names: ""))
    with speaking("ko"):
        [korean] = quick_fixes(recipe, offers(recipe, [problem], lambda names: ""))

    assert english.recipe == korean.recipe == recipe.replace("a/b, revision: v1", "a/b@v1")
    assert english.title == "Change 'a/b' to 'a/b@v1'"
    assert korean.title == "'a/b' 대신 'a/b@v1'"


SLIPS = """\
merge_metod: tiess
base_model: x/base
models:
  - model: x/a
    parameters: {wieght: 1, density: 2}
  - model: x/b
    parameters: {wieght: 1, density: 2}
"""


def problems_of(text: str) -> tuple[Problem, ...]:
    try:
        return read_recipe(text).warnings
    except MergeError as error:
        return error.problems


def test_one_button_mends_all_that_the_first_mistake_hides() -> None:
    button, *_ = quick_fixes(SLIPS, offers(SLIPS, problems_of(SLIPS), lambda names: ""))

    assert button.title == "Fix all 6"
    assert problems_of(button.recipe) == ()
    assert quick_fixes(button.recipe, offers(button.recipe, (), lambda names: "")) == ()


def test_buttons_of_the_same_words_name_their_lines() -> None:
    text = SLIPS.replace("merge_metod: tiess", "merge_method: ties").replace("wieght", "weight")

    titles = [fix.title for fix in quick_fixes(text, offers(text, problems_of(text), lambda names: ""))]

    assert titles == ["Fix all 2", "Change '2' to '1' (line 5)", "Change '2' to '1' (line 7)"]

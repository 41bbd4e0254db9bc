"""The fixes as buttons, and the fields that problems belong to."""

from __future__ import annotations

from checkpoints.problems import Place, Problem
from ui.languages.translate import speaking
from ui.merge.form import BASE, METHOD, PARAMETERS, spot_of
from ui.recipe.form_state import ModelEntry, read
from ui.recipe.quick_fixes import fixes


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

    [english] = fixes(recipe, [problem], lambda names: "")
    with speaking("ko"):
        [korean] = fixes(recipe, [problem], lambda names: "")

    assert english.recipe == korean.recipe == recipe.replace("a/b, revision: v1", "a/b@v1")
    assert english.title == "Change 'a/b' to 'a/b@v1'"
    assert korean.title == "'a/b' 대신 'a/b@v1'"

"""A value that was turned goes back into the recipe, whatever else was changed there meanwhile."""

from __future__ import annotations

from tests.ui.test_cards import EVIL, shown
from ui.chat.tuning import MOST_HEARD, Tuning, _heard, taken_back

RECIPE = """\
merge_method: linear
models:
  - model: a/x
    parameters: {weight: 0.5}
  - model: a/y
    parameters: {weight: 0.5}
"""
TURNED = RECIPE.replace("0.5", "0.8", 1)
TUNING = Tuning("try: x", RECIPE, TURNED)


def test_the_recipe_takes_the_value_back() -> None:
    assert taken_back(RECIPE, TUNING) == TURNED


def test_what_was_changed_meanwhile_stays() -> None:
    assert taken_back(RECIPE + "dtype: float32 # wide\n", TUNING) == TURNED + "dtype: float32 # wide\n"


def test_another_recipe_is_left_alone() -> None:
    assert taken_back("merge_method: model_stock\nbase_model: a/z\nmodels: [{model: a/x}]\n", TUNING) is None
    assert taken_back("no recipe", TUNING) is None


def test_answers_stand_beside_each_other_by_value() -> None:
    heard = TUNING.with_answer("Hi", "as tried first", "Hello").with_answer("Hi", TUNING.values, EVIL)

    card = shown(_heard(heard))

    assert "weight of x = 0.8" in card.text and "Hello" in card.text and EVIL in card.text
    assert heard.with_answer("Hi", TUNING.values, "Ahoy").heard[-1] == (TUNING.values, "Ahoy")
    assert len(heard.with_answer("Hi", TUNING.values, "Ahoy").heard) == 2
    assert heard.with_answer("Another message", "x", "Ahoy").heard == (("x", "Ahoy"),)
    for number in range(20):
        heard = heard.with_answer("Hi", str(number), "")
    assert len(heard.heard) == MOST_HEARD

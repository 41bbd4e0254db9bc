"""A value that was changed goes back into the recipe, whatever else was edited there meanwhile."""

from __future__ import annotations

from tests.ui.test_cards import EVIL, shown
from ui.chat.tuning import MAX_ANSWERS, Tuning, answers_card, with_values

RECIPE = """\
merge_method: linear
models:
  - model: a/x
    parameters: {weight: 0.5}
  - model: a/y
    parameters: {weight: 0.5}
"""
CHANGED = RECIPE.replace("0.5", "0.8", 1)
TUNING = Tuning("try: x", RECIPE, CHANGED)


def test_the_recipe_takes_the_value() -> None:
    assert with_values(RECIPE, TUNING) == CHANGED


def test_what_was_changed_meanwhile_stays() -> None:
    assert with_values(RECIPE + "dtype: float32 # wide\n", TUNING) == CHANGED + "dtype: float32 # wide\n"


def test_another_recipe_is_left_alone() -> None:
    assert with_values("merge_method: model_stock\nbase_model: a/z\nmodels: [{model: a/x}]\n", TUNING) is None
    assert with_values("no recipe", TUNING) is None


def test_answers_are_listed_by_value() -> None:
    answered = TUNING.with_answer("Hi", "as tried first", "Hello").with_answer("Hi", TUNING.values, EVIL)

    card = shown(answers_card(answered))

    assert "weight of x = 0.8" in card.text and "Hello" in card.text and EVIL in card.text
    assert answered.with_answer("Hi", TUNING.values, "Ahoy").answers[-1] == (TUNING.values, "Ahoy")
    assert len(answered.with_answer("Hi", TUNING.values, "Ahoy").answers) == 2
    assert answered.with_answer("Another message", "x", "Ahoy").answers == (("x", "Ahoy"),)
    for number in range(20):
        answered = answered.with_answer("Hi", str(number), "")
    assert len(answered.answers) == MAX_ANSWERS

"""A value that was changed goes back into the recipe, whatever else was edited there meanwhile."""

from __future__ import annotations

from dataclasses import replace

from tests.ui.test_cards import EVIL, shown
from ui.chat.sampling import Sampling
from ui.chat.tuning import MAX_ANSWERS, Heard, Tuning, answers_card, with_values

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
SAMPLING = Sampling()


def test_the_recipe_takes_the_value() -> None:
    assert with_values(RECIPE, TUNING) == CHANGED


def test_what_was_changed_meanwhile_stays() -> None:
    assert with_values(RECIPE + "dtype: float32 # wide\n", TUNING) == CHANGED + "dtype: float32 # wide\n"


def test_another_recipe_is_left_alone() -> None:
    assert with_values("merge_method: model_stock\nbase_model: a/z\nmodels: [{model: a/x}]\n", TUNING) is None
    assert with_values("no recipe", TUNING) is None


def heard(recipe: str, answer: str, question: str = "Hi", sampling: Sampling = SAMPLING) -> Heard:
    asked = ({"role": "user", "content": question},)
    return Heard(recipe, f"by {len(recipe)}", asked, sampling, ({"role": "assistant", "content": answer},))


def test_answers_are_listed_by_value() -> None:
    answered = TUNING.with_answer(heard(RECIPE, "Hello")).with_answer(heard(CHANGED, EVIL))

    card = shown(answers_card(answered, "Ahoy"))

    assert "weight of x = 0.8" in card.text and "Hello" in card.text and "Ahoy" in card.text
    assert EVIL in shown(answers_card(answered)).text
    assert [one.text for one in answered.with_answer(heard(CHANGED, "Ahoy")).heard] == ["Hello", "Ahoy"]
    assert [one.text for one in answered.with_answer(heard(CHANGED, "Ahoy", "Who?")).heard] == ["Ahoy"]
    for number in range(20):
        answered = answered.with_answer(heard(f"{number}", ""))
    assert len(answered.heard) == MAX_ANSWERS


def test_a_value_is_answered_from_memory_only_where_nothing_else_changed() -> None:
    before = heard(CHANGED, "Hello")
    answered = TUNING.with_answer(before)
    talk = before.asked

    assert answered.answered(talk, SAMPLING) == before
    assert answered.answered(talk, replace(SAMPLING, seed=1)) is None
    assert answered.answered([*talk, *before.answer, *talk], SAMPLING) is None
    assert replace(answered, recipe=RECIPE).answered(talk, SAMPLING) is None

"""Preferences between answers: counted for the model, whichever side it was on, and pair by pair."""

from __future__ import annotations

import pytest

from tests.ui.test_cards import EVIL, shown
from ui.chat.preferences import (
    MAX_PREFERENCES,
    Preference,
    last_answers,
    stored_preferences,
    tally,
    with_preference,
)

ASKED = "Hi", ("Ahoy", "Hello")
THREE = "Hi", ("Ahoy", "Hello", "Oh")


def test_a_side_is_not_a_model() -> None:
    preferences = with_preference([], 0, ("a", "b"), *ASKED)
    preferences = with_preference(preferences, 1, ("b", "a"), *ASKED)
    preferences = with_preference(preferences, None, ("a", "b"), "Another", ("x", "y"))

    assert "a: 2, b: 0, ties: 1" in shown(tally(preferences, ("a", "b"))).text
    assert "b: 0, a: 2, ties: 1" in shown(tally(preferences, ("b", "a"))).text
    assert tally(preferences, ("a", "c")) == ""


@pytest.mark.parametrize("models", [("a", "b"), ("b", "a")])
def test_a_second_vote_replaces_the_first(models: tuple[str, str]) -> None:
    message, answers = ASKED
    again = tuple(dict(zip(("a", "b"), answers, strict=True))[model] for model in models)
    preferences = with_preference(with_preference([], 0, ("a", "b"), *ASKED), 1, models, message, again)

    assert [one[one["vote"]] for one in preferences] == [models[1]]


def test_the_best_of_three_is_preferred_to_both_others() -> None:
    models = ("a", "b", "c")
    preferences = with_preference([], 1, models, *THREE)

    assert [(one["left"], one["right"], one["vote"]) for one in preferences] == [
        ("a", "b", "right"),
        ("b", "c", "left"),
    ]
    assert "pairs of models: a: 0, b: 2, c: 0, ties: 0" in shown(tally(preferences, models)).text
    assert "a: 0, b: 1, ties: 0" in shown(tally(preferences, ("a", "b"))).text

    preferences = with_preference(preferences, 2, models, *THREE)
    assert [(one["left"], one["right"], one["vote"]) for one in preferences] == [
        ("a", "c", "right"),
        ("b", "c", "right"),
    ]
    preferences = with_preference(preferences, None, models, *THREE)
    assert [one["vote"] for one in preferences] == ["tie"] * 3
    assert "a: 0, b: 0, c: 0, ties: 3" in shown(tally(preferences, models)).text


def test_preferences_are_bounded_and_come_back_as_they_are() -> None:
    preferences: list[Preference] = []
    for number in range(MAX_PREFERENCES + 3):
        preferences = with_preference(preferences, None, ("a", "b"), f"질문 {number}", ("x" * 10_000, "y"))

    assert len(preferences) == MAX_PREFERENCES
    assert preferences[0]["message"] == "질문 3"
    assert stored_preferences(preferences) == preferences


def test_a_long_answer_is_voted_on_once() -> None:
    long = "Hi", ("x" * 10_000, "y")

    assert len(with_preference(with_preference([], 0, ("a", "b"), *long), 1, ("a", "b"), *long)) == 1


def test_a_changed_storage_holds_no_preferences() -> None:
    one = with_preference([], 0, (EVIL, "b"), EVIL, (EVIL, ""))[0]

    assert (
        stored_preferences({"a": 1})
        == stored_preferences(["x", {}, {**one, "vote": "sum"}, {**one, "more": 1}])
        == []
    )
    shown(tally([one], (EVIL, "b")))


def test_only_answers_to_one_message_are_compared() -> None:
    asked = {"role": "user", "content": "Hi"}
    left, right = (
        [asked, {"role": "assistant", "content": "a"}],
        [asked, {"role": "assistant", "content": "b"}],
    )

    assert last_answers([left, right]) == ("Hi", ["a", "b"])
    assert last_answers([left, right, left]) == ("Hi", ["a", "b", "a"])
    assert last_answers([left, []]) is None
    assert last_answers([left, [{**asked, "content": "Ho"}, right[1]]]) is None
    assert last_answers([]) is None

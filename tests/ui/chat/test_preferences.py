"""Preferences between two answers: counted for the model, whichever side it was on."""

from __future__ import annotations

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


def test_a_side_is_not_a_model() -> None:
    preferences = with_preference([], "left", ("a", "b"), *ASKED)
    preferences = with_preference(preferences, "right", ("b", "a"), *ASKED)
    preferences = with_preference(preferences, "tie", ("a", "b"), "Another", ("x", "y"))

    assert "a: 2, b: 0, ties: 1" in shown(tally(preferences, ("a", "b"))).text
    assert "b: 0, a: 2, ties: 1" in shown(tally(preferences, ("b", "a"))).text
    assert tally(preferences, ("a", "c")) == ""


def test_a_second_choice_replaces_the_first() -> None:
    preferences = with_preference(
        with_preference([], "left", ("a", "b"), *ASKED), "right", ("a", "b"), *ASKED
    )

    assert [one["vote"] for one in preferences] == ["right"]


def test_preferences_are_bounded_and_come_back_as_they_are() -> None:
    preferences: list[Preference] = []
    for number in range(MAX_PREFERENCES + 3):
        preferences = with_preference(preferences, "tie", ("a", "b"), f"질문 {number}", ("x" * 10_000, "y"))

    assert len(preferences) == MAX_PREFERENCES
    assert preferences[0]["message"] == "질문 3"
    assert stored_preferences(preferences) == preferences


def test_a_changed_storage_holds_no_preferences() -> None:
    one = with_preference([], "left", (EVIL, "b"), EVIL, (EVIL, ""))[0]

    assert (
        stored_preferences({"a": 1})
        == stored_preferences(["x", {}, {**one, "vote": "sum"}, {**one, "more": 1}])
        == []
    )
    shown(tally([one], (EVIL, "b")))


def test_only_two_answers_to_one_message_are_compared() -> None:
    asked = {"role": "user", "content": "Hi"}
    left, right = (
        [asked, {"role": "assistant", "content": "a"}],
        [asked, {"role": "assistant", "content": "b"}],
    )

    assert last_answers(left, right) == ("Hi", ("a", "b"))
    assert last_answers(left, []) is None
    assert last_answers(left, [{**asked, "content": "Ho"}, right[1]]) is None

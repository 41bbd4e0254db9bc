"""Messages and answers of a visitor, as examples for a search."""

from __future__ import annotations

import pytest

from ui.chat.examples import exchanged, preferred
from ui.chat.preferences import Choice, Preference, with_preference


def voted(choice: Choice, message: str, left: str, right: str) -> list[Preference]:
    return with_preference([], choice, ("a", "b"), message, (left, right))


@pytest.mark.parametrize(
    ("choice", "pairs"),
    [("left", [("Hi", "Ahoy")]), ("right", [("Hi", "Hello")]), ("tie", [])],
)
def test_the_answer_that_was_preferred_is_the_example(choice: Choice, pairs: list[tuple[str, str]]) -> None:
    assert preferred(voted(choice, "Hi", "Ahoy", "Hello")) == pairs
    assert preferred(voted(choice, "Hi", " ", " ")) == []


def test_each_message_of_a_conversation_has_its_answer() -> None:
    def talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in turns]

    one = talk(("user", "Hi"), ("assistant", "Ahoy"), ("user", "Bye"), ("assistant", "Farewell"))
    other = talk(("user", "Hi"), ("assistant", "Ahoy"), ("user", "Well?"), ("assistant", ""), ("user", "?"))

    assert exchanged([one, other, []]) == [("Hi", "Ahoy"), ("Bye", "Farewell")]

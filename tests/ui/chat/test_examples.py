"""Messages and answers of a visitor, as examples for a search."""

from __future__ import annotations

import pytest

from ui.chat.examples import exchanged, preferred
from ui.chat.preferences import Preference, with_preference


def voted(best: int | None, message: str, *answers: str) -> list[Preference]:
    return with_preference([], best, "abc"[: len(answers)], message, answers)


@pytest.mark.parametrize(("best", "pairs"), [(0, [("Hi", "Ahoy")]), (1, [("Hi", "Hello")]), (None, [])])
def test_the_answer_that_was_preferred_is_the_example(best: int | None, pairs: list[tuple[str, str]]) -> None:
    assert preferred(voted(best, "Hi", "Ahoy", "Hello")) == pairs
    assert preferred(voted(best, "Hi", "Ahoy", "Hello", "Oh")) == pairs  # once, though it won twice
    assert preferred(voted(best, "Hi", " ", " ")) == []


def test_each_message_of_a_conversation_has_its_answer() -> None:
    def talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in turns]

    one = talk(("user", "Hi"), ("assistant", "Ahoy"), ("user", "Bye"), ("assistant", "Farewell"))
    other = talk(("user", "Hi"), ("assistant", "Ahoy"), ("user", "Well?"), ("assistant", ""), ("user", "?"))

    assert exchanged([one, other, []]) == [("Hi", "Ahoy"), ("Bye", "Farewell")]

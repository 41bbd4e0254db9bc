"""Votes on two answers: counted for the model, not for the side it stood on."""

from __future__ import annotations

from tests.ui.test_cards import EVIL, shown
from ui.chat.votes import MOST_VOTES, Vote, kept_votes, last_answers, tally, with_vote

ASKED = "Hi", ("Ahoy", "Hello")


def test_a_side_is_not_a_model() -> None:
    votes = with_vote([], "left", ("a", "b"), *ASKED)
    votes = with_vote(votes, "right", ("b", "a"), *ASKED)
    votes = with_vote(votes, "tie", ("a", "b"), "Another", ("x", "y"))

    assert "a: 2, b: 0, as good: 1" in shown(tally(votes, ("a", "b"))).text
    assert "b: 0, a: 2, as good: 1" in shown(tally(votes, ("b", "a"))).text
    assert tally(votes, ("a", "c")) == ""


def test_a_second_vote_takes_the_place_of_the_first() -> None:
    votes = with_vote(with_vote([], "left", ("a", "b"), *ASKED), "right", ("a", "b"), *ASKED)

    assert [vote["vote"] for vote in votes] == ["right"]


def test_votes_are_bounded_and_come_back_as_they_are() -> None:
    votes: list[Vote] = []
    for number in range(MOST_VOTES + 3):
        votes = with_vote(votes, "tie", ("a", "b"), f"질문 {number}", ("x" * 10_000, "y"))

    assert len(votes) == MOST_VOTES
    assert votes[0]["message"] == "질문 3"
    assert kept_votes(votes) == votes


def test_a_changed_storage_is_no_votes() -> None:
    vote = with_vote([], "left", (EVIL, "b"), EVIL, (EVIL, ""))[0]

    assert kept_votes({"a": 1}) == kept_votes(["x", {}, {**vote, "vote": "sum"}, {**vote, "more": 1}]) == []
    shown(tally([vote], (EVIL, "b")))


def test_only_two_answers_to_one_message_are_compared() -> None:
    asked = {"role": "user", "content": "Hi"}
    left, right = (
        [asked, {"role": "assistant", "content": "a"}],
        [asked, {"role": "assistant", "content": "b"}],
    )

    assert last_answers(left, right) == ("Hi", ("a", "b"))
    assert last_answers(left, []) is None
    assert last_answers(left, [{**asked, "content": "Ho"}, right[1]]) is None

"""Which of two answers a visitor liked better: kept in the visitor's browser, and theirs to take home."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ui.languages.translate import t
from ui.widgets.html import status

Choice = Literal["left", "tie", "right"]
CHOICES: tuple[Choice, ...] = ("left", "tie", "right")
# The oldest leave: a browser keeps some megabytes for a page.
MOST_VOTES = 200
MOST_CHARACTERS = 4000  # of a message or an answer
Vote = dict[str, str]
# Given the votes, saves them as JSON Lines. In the browser, which has them: no file of a visitor's on the server.
TAKE_HOME = """(votes) => {
  const lines = votes.map((vote) => JSON.stringify(vote) + "\\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
  link.download = "votes.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}"""


def with_vote(
    votes: Sequence[Vote], choice: Choice, models: tuple[str, str], message: str, answers: tuple[str, str]
) -> list[Vote]:
    """The votes with one more; a second vote on the same two answers takes the place of the first.

    Args:
        votes: so far
        models: left and right
        message: that both answered
        answers: left and right
    """
    new = {
        "left": models[0],
        "right": models[1],
        "message": message[:MOST_CHARACTERS],
        "left_answer": answers[0][:MOST_CHARACTERS],
        "right_answer": answers[1][:MOST_CHARACTERS],
    }
    kept = [vote for vote in votes if {**vote, "vote": ""} != {**new, "vote": ""}]
    return [*kept, {**new, "vote": choice}][-MOST_VOTES:]


def tally(votes: Sequence[Vote], models: tuple[str, str]) -> str:
    """How the votes on two models stand, whichever of them was left."""
    found: Counter[str] = Counter()
    for vote in votes:
        if {vote["left"], vote["right"]} == set(models):
            found["tie" if vote["vote"] == "tie" else vote[vote["vote"]]] += 1
    if not found.total():
        return ""
    one, two = models
    words = t("vote.tally", one=one, first=found[one], two=two, second=found[two], ties=found["tie"])
    return status(words)


def kept_votes(stored: object) -> list[Vote]:
    """What the browser remembers, as far as it is votes: its storage is the visitor's to change."""
    fields = {"left", "right", "message", "left_answer", "right_answer", "vote"}
    return [
        {key: str(value) for key, value in vote.items()}
        for vote in (stored if isinstance(stored, list) else [])
        if isinstance(vote, Mapping) and vote.keys() == fields and vote["vote"] in CHOICES
    ]


def last_answers(
    left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]
) -> tuple[str, tuple[str, str]] | None:
    """The message that both conversations end with an answer to, and the answers; None if there is none."""
    if min(len(left), len(right)) < 2 or {left[-1]["role"], right[-1]["role"]} != {"assistant"}:
        return None
    if left[-2]["content"] != right[-2]["content"]:
        return None
    return str(left[-2]["content"]), (str(left[-1]["content"]), str(right[-1]["content"]))

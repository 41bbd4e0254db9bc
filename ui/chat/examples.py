"""What a visitor's chats and votes are examples of: messages, each with an answer to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import gradio as gr

from ui.chat.answers import Message, plain
from ui.chat.preferences import Preference, stored_preferences
from ui.widgets.events import Given

Pair = tuple[str, str]


class ChatExamples:
    """The examples of one visitor.

    Args:
        stored: the votes
        talks: the conversations that the Chat tab shows

    Attributes:
        inputs: what `pairs` reads
    """

    def __init__(self, stored: gr.BrowserState, talks: Sequence[gr.Chatbot]) -> None:
        self._stored, self._talks = stored, talks
        self.inputs = {stored, *talks}

    def pairs(self, given: Given) -> dict[str, list[Pair]]:
        """Messages and answers: `votes` are the answers that were preferred, `chats` all that the tab shows."""
        return {
            "votes": preferred(stored_preferences(given[self._stored])),
            "chats": exchanged(plain(given[talk] or []) for talk in self._talks),
        }


def preferred(votes: Sequence[Preference]) -> list[Pair]:
    """The answers that were preferred, each once; a tie prefers none."""
    found = [
        (vote["message"], vote[f"{vote['vote']}_answer"])
        for vote in votes
        if vote["vote"] != "tie" and vote[f"{vote['vote']}_answer"].strip()
    ]
    return list(dict.fromkeys(found))


def exchanged(talks: Iterable[Sequence[Message]]) -> list[Pair]:
    """Each message with the answer that follows it, each pair once."""
    found = [
        (str(asked["content"]), str(answer["content"]))
        for talk in talks
        for asked, answer in pairwise(talk)
        if (asked["role"], answer["role"]) == ("user", "assistant") and str(answer["content"]).strip()
    ]
    return list(dict.fromkeys(found))

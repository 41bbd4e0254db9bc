"""Which of two answers a visitor prefers: kept in the visitor's browser, where it can be downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gradio as gr

from ui.chat.answers import line_html, plain
from ui.host import Host
from ui.languages.translate import t
from ui.widgets.events import PRIVATE, QUIET, Given, Updates
from ui.widgets.html import status

Choice = Literal["left", "tie", "right"]
CHOICES: tuple[Choice, ...] = ("left", "tie", "right")
# Beyond this the oldest are dropped: a browser keeps a few megabytes for a page.
MAX_PREFERENCES = 200
MAX_CHARACTERS = 4000  # of a message or an answer
Preference = dict[str, str]
# Saves the preferences it is given as JSON Lines: in the browser, so that the server holds no file of a visitor's.
DOWNLOAD = """(votes) => {
  const lines = votes.map((vote) => JSON.stringify(vote) + "\\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
  link.download = "votes.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}"""

# The same as preferences for DPO: a prompt with the chosen and the rejected answer. Ties say nothing there.
DOWNLOAD_FOR_DPO = """(votes) => {
  const said = (role, content) => [{role, content}];
  const lines = votes.filter((vote) => vote.vote !== "tie").map((vote) => {
    const [better, worse] = vote.vote === "left" ? ["left", "right"] : ["right", "left"];
    return JSON.stringify({
      prompt: said("user", vote.message),
      chosen: said("assistant", vote[`${better}_answer`]),
      rejected: said("assistant", vote[`${worse}_answer`]),
    }) + "\\n";
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
  link.download = "preferences.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}"""


class PreferenceButtons:
    """The buttons below two conversations; made inside the page's Blocks.

    Attributes:
        row: hidden unless two models answer
        stored: the preferences, which the page renders outside its tabs
    """

    def __init__(self, host: Host) -> None:
        with gr.Row(visible=False, elem_classes="alloy-votes") as self.row:
            self.buttons = {
                choice: gr.Button(t(f"vote.{choice}"), size="sm", min_width=90) for choice in CHOICES
            }
        self.tally = gr.HTML()
        self.download = gr.Button(t("vote.export"), size="sm", min_width=120, visible=False)
        self.for_dpo = gr.Button(t("vote.export.dpo"), size="sm", min_width=120, visible=False)
        self.stored = gr.BrowserState([], storage_key="alloy-votes", secret=host.browser_key, render=False)

    def wire(self, models: Sequence[gr.Dropdown], talks: Sequence[gr.Chatbot]) -> None:
        """Add the events; `models` and `talks` are those of the left and of the right."""
        for choice, button in self.buttons.items():
            button.click(
                self._prefer(choice, models, talks), {self.stored, *models, *talks}, [self.stored, self.tally], **QUIET
            )  # fmt: skip
        # This event also fires when the page loads and the browser has some stored.
        self.stored.change(self._offer, self.stored, [self.download, self.for_dpo], **QUIET)
        self.download.click(None, self.stored, None, js=DOWNLOAD, **PRIVATE)
        self.for_dpo.click(None, self.stored, None, js=DOWNLOAD_FOR_DPO, **PRIVATE)

    def _prefer(
        self, choice: Choice, models: Sequence[gr.Dropdown], talks: Sequence[gr.Chatbot]
    ) -> Callable[[Given], Updates]:
        def prefer(given: Given) -> Updates:
            left, right = ((given[model] or "").strip() for model in models)
            found = last_answers(*(plain(given[talk]) for talk in talks))
            if found is None or not left or not right:
                return {self.tally: line_html(t("vote.none"))}
            now = with_preference(stored_preferences(given[self.stored]), choice, (left, right), *found)
            return {self.stored: now, self.tally: tally(now, (left, right))}

        return prefer

    def _offer(self, stored: object) -> Updates:
        found = stored_preferences(stored)
        decided = any(one["vote"] != "tie" for one in found)
        return {
            self.download: gr.update(visible=bool(found)),
            self.for_dpo: gr.update(visible=decided),
        }


def with_preference(
    preferences: Sequence[Preference],
    choice: Choice,
    models: tuple[str, str],
    message: str,
    answers: tuple[str, str],
) -> list[Preference]:
    """The preferences with one more; a second choice on the same two answers replaces the first.

    Args:
        preferences: so far
        models: left and right
        message: that both answered
        answers: left and right
    """
    new = {
        "left": models[0],
        "right": models[1],
        "message": message[:MAX_CHARACTERS],
        "left_answer": answers[0][:MAX_CHARACTERS],
        "right_answer": answers[1][:MAX_CHARACTERS],
    }
    kept = [one for one in preferences if {**one, "vote": ""} != {**new, "vote": ""}]
    return [*kept, {**new, "vote": choice}][-MAX_PREFERENCES:]


def tally(preferences: Sequence[Preference], models: tuple[str, str]) -> str:
    """How often each of two models was preferred, on whichever side it was."""
    found: Counter[str] = Counter()
    for one in preferences:
        if {one["left"], one["right"]} == set(models):
            found["tie" if one["vote"] == "tie" else one[one["vote"]]] += 1
    if not found.total():
        return ""
    left, right = models
    return status(
        t("vote.tally", one=left, first=found[left], two=right, second=found[right], ties=found["tie"])
    )


def stored_preferences(stored: object) -> list[Preference]:
    """What is valid of the browser's storage, which its visitor can change."""
    fields = {"left", "right", "message", "left_answer", "right_answer", "vote"}
    return [
        {key: str(value) for key, value in one.items()}
        for one in (stored if isinstance(stored, list) else [])
        if isinstance(one, Mapping) and one.keys() == fields and one["vote"] in CHOICES
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

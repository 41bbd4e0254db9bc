"""Which of two or three answers a visitor prefers: kept in the visitor's browser, where it can be downloaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import gradio as gr

from ui.chat.answers import line_html
from ui.host import Host
from ui.languages.translate import t
from ui.widgets.events import PRIVATE, QUIET, Updates
from ui.widgets.html import status

# Of the conversations, from left to right.
LETTERS = "ABC"
VOTES = ("left", "tie", "right")
# Beyond this the oldest are dropped: a browser keeps a few megabytes for a page.
MAX_PREFERENCES = 200
MAX_CHARACTERS = 4000  # of a message or an answer
Preference = dict[str, str]
_AS_VOTES = "votes"
# As preferences for DPO: a prompt with the chosen and the rejected answer. Ties say nothing there.
_AS_PREFERENCES = """votes.filter((vote) => vote.vote !== "tie").map((vote) => {
    const said = (role, content) => [{role, content}];
    const [better, worse] = vote.vote === "left" ? ["left", "right"] : ["right", "left"];
    return {
      prompt: said("user", vote.message),
      chosen: said("assistant", vote[`${better}_answer`]),
      rejected: said("assistant", vote[`${worse}_answer`]),
    };
  })"""


def _download(rows: str, name: str) -> str:
    """Saves rows made of `votes` as JSON Lines: in the browser, so that the server holds no file of a visitor's."""
    return f"""(votes) => {{
  const lines = {rows}.map((row) => JSON.stringify(row) + "\\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, {{type: "application/jsonl"}}));
  link.download = "{name}";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}}"""


class PreferenceButtons:
    """The buttons below the conversations; made inside the page's Blocks.

    Attributes:
        row: hidden unless several models have answered; the page renders it where it is always in view
        best: a button for each conversation: its answer is the best
        tie: the button for answers of which none is better
        stored: the preferences, which the page renders outside its tabs
    """

    def __init__(self, host: Host) -> None:
        with gr.Row(visible=False, elem_classes="alloy-votes", render=False) as self.row:
            self.best = [
                gr.Button(t("vote.better", letter=letter), size="sm", min_width=90) for letter in LETTERS
            ]
            self.tie = gr.Button(t("vote.tie"), size="sm", min_width=90)
        self.tally = gr.HTML()
        with gr.Row():
            self.download = gr.Button(t("vote.export"), size="sm", min_width=120, visible=False)
            self.for_dpo = gr.Button(t("vote.export.dpo"), size="sm", min_width=120, visible=False)
        self.stored = gr.BrowserState([], storage_key="alloy-votes", secret=host.browser_key, render=False)
        self.offered = [self.row, *self.best]
        # This event also fires when the page loads and the browser has some stored.
        self.stored.change(self._offer_files, self.stored, [self.download, self.for_dpo], **QUIET)
        self.download.click(None, self.stored, None, js=_download(_AS_VOTES, "votes.jsonl"), **PRIVATE)
        self.for_dpo.click(
            None, self.stored, None, js=_download(_AS_PREFERENCES, "preferences.jsonl"), **PRIVATE
        )

    def offer(self, count: int) -> Updates:
        """Updates of `offered`: the buttons for this many answers, none for fewer than two."""
        key = "vote.better" if count == 2 else "vote.best"
        buttons: Updates = {
            button: gr.update(value=t(key, letter=letter), visible=place < count)
            for place, (letter, button) in enumerate(zip(LETTERS, self.best, strict=True))
        }
        return {self.row: gr.update(visible=count > 1), **buttons}

    def prefer(
        self,
        best: int | None,
        models: Sequence[str],
        talks: Sequence[Sequence[Mapping[str, Any]]],
        stored: object,
    ) -> Updates:
        """Updates of `stored` and `tally` for a vote; see `with_preference`.

        Args:
            best: the number of the best answer, None for a tie
            models: by conversation
            talks: the conversations
            stored: what the browser has stored
        """
        found = last_answers(talks)
        if found is None:
            return {self.tally: line_html(t("vote.none"))}
        now = with_preference(stored_preferences(stored), best, models, *found)
        return {self.stored: now, self.tally: tally(now, models)}

    def _offer_files(self, stored: object) -> Updates:
        found = stored_preferences(stored)
        decided = any(one["vote"] != "tie" for one in found)
        return {
            self.download: gr.update(visible=bool(found)),
            self.for_dpo: gr.update(visible=decided),
        }


def with_preference(
    preferences: Sequence[Preference],
    best: int | None,
    models: Sequence[str],
    message: str,
    answers: Sequence[str],
) -> list[Preference]:
    """The preferences with those of one more vote; a second vote on the same answers replaces the first.

    Preferences are pairs: of three answers, the best is preferred to each of the two others.

    Args:
        preferences: so far
        best: the number of the best answer, None if none is better than another
        models: (K,), from left to right
        message: that all answered
        answers: (K,), from left to right
    """
    message, answers = message[:MAX_CHARACTERS], [answer[:MAX_CHARACTERS] for answer in answers]
    judged = set(zip(models, answers, strict=True))
    kept = [one for one in preferences if one["message"] != message or not _sides(one) <= judged]
    new = [
        {
            "left": models[left],
            "right": models[right],
            "message": message,
            "left_answer": answers[left],
            "right_answer": answers[right],
            "vote": "tie" if best is None else "left" if best == left else "right",
        }
        for left, right in combinations(range(len(models)), 2)
        if best in (None, left, right)
    ]
    return [*kept, *new][-MAX_PREFERENCES:]


def _sides(preference: Preference) -> set[tuple[str, str]]:
    """Both models with their answers."""
    return {(preference[side], preference[f"{side}_answer"]) for side in ("left", "right")}


def tally(preferences: Sequence[Preference], models: Sequence[str]) -> str:
    """How often each of these models was preferred to another of them, on whichever side it was."""
    found: Counter[str] = Counter()
    ties = 0
    for one in preferences:
        if {one["left"], one["right"]} <= set(models):
            ties += one["vote"] == "tie"
            found[one.get(one["vote"], "")] += 1
    if not found:
        return ""
    counts = ", ".join(f"{model}: {found[model]}" for model in models)
    return status(t("vote.tally" if len(models) == 2 else "vote.tally.pairs", counts=counts, ties=ties))


def stored_preferences(stored: object) -> list[Preference]:
    """What is valid of the browser's storage, which its visitor can change."""
    fields = {"left", "right", "message", "left_answer", "right_answer", "vote"}
    return [
        {key: str(value) for key, value in one.items()}
        for one in (stored if isinstance(stored, list) else [])
        if isinstance(one, Mapping) and one.keys() == fields and one["vote"] in VOTES
    ]


def last_answers(talks: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[str, list[str]] | None:
    """The message that all conversations end with an answer to, and the answers; None if there is none."""
    if not talks or any(len(talk) < 2 or talk[-1]["role"] != "assistant" for talk in talks):
        return None
    messages = {str(talk[-2]["content"]) for talk in talks}
    if len(messages) > 1:
        return None
    return messages.pop(), [str(talk[-1]["content"]) for talk in talks]

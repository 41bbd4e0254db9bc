"""The texts of a search: bundled ones, the demo's voices, and the visitor's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from evaluation.text import BUNDLED
from ui.host import Host
from ui.languages.translate import t
from ui.search.space import CHAT
from ui.widgets.documents import DatasetFields, opened_file
from ui.widgets.events import QUIET, Given, Updates

OWN = "own"
# Of a data set.
MAX_ROWS = 1000
_VOICES = Path(__file__).parent / "voices"
# Conversations in the demo's voices; its models were not trained on them.
VOICES = tuple(sorted(path.stem for path in _VOICES.glob("*.json")))


# Conversations of the visitor's own, from the Chat tab.
FROM_CHAT = ("votes", "chats")


class Examples(Protocol):
    """Messages with answers to them, see `ui.chat.examples`."""

    inputs: set[Any]

    def pairs(self, given: Given) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Those of each of FROM_CHAT."""


def conversations(voice: str) -> list[str]:
    """The conversations of a voice, as documents of a search."""
    return documents_of_pairs(json.loads((_VOICES / f"{voice}.json").read_text("utf-8")))


def documents_of_pairs(pairs: Iterable[Sequence[str]]) -> list[str]:
    """Conversations of a message and an answer, as documents of a search."""
    from searching.data import as_document  # imports torch

    return [
        as_document([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
        for asked, answer in pairs
    ]


class SearchTexts:
    """The fields, made inside the page's Blocks.

    Attributes:
        chosen: names of bundled texts, and of the visitor's conversations
        own: the visitor's text
        guard: what must not get worse, see `SpaceChoice`
        examples: the visitor's conversations, given by the page when the Chat tab is there
    """

    examples: Examples

    def __init__(self, host: Host) -> None:
        names = [*(VOICES if host.demo else ()), *BUNDLED]
        choices = [(t(f"search.text.{name}"), name) for name in names]
        own = [(t(f"search.text.{name}"), name) for name in FROM_CHAT]
        self.chosen = gr.CheckboxGroup(
            [*choices, *own], value=["english"], label=t("search.texts"), info=t("search.texts.info")
        )
        self.own = gr.Textbox(label=t("search.own"), info=t("search.own.info"), lines=3, max_lines=12)
        self.opened = gr.State(None)
        file = gr.UploadButton(t("score.file"), size="sm", file_types=["text", ".jsonl"])
        file.upload(self._open, file, [self.own, self.opened], **QUIET)
        self.dataset = DatasetFields(t("search.dataset.info"), "train", least=10, most=MAX_ROWS)
        with gr.Row():
            self.guard = gr.Dropdown(
                [(t("search.guard.none"), ""), *choices, (t("search.guard.chat"), CHAT)], value="",
                label=t("search.guard"), info=t("search.guard.info"), min_width=220,
            )  # fmt: skip
            self.margin = gr.Number(
                0.01, label=t("search.margin"), info=t("search.margin.info"), minimum=0, maximum=10, step=0.01,
                min_width=220,
            )  # fmt: skip
        self._fields = {
            self.chosen, self.own, self.opened, self.guard, self.margin, *self.dataset.inputs,
        }  # fmt: skip

    @property
    def inputs(self) -> set[Any]:
        return self._fields | self.examples.inputs

    def goals(self, given: Given) -> list[dict[str, Any]]:
        """The texts that the recipe is judged by, as a space names them.

        Raises:
            gr.Error: there are none
        """
        goals: list[dict[str, Any]] = [{"text": name} for name in given[self.chosen] or ()]
        if (given[self.own] or "").strip():
            goals.append({"text": OWN})
        if found := self.dataset.chosen(given):
            where = {"column": found.column, "split": found.split, "rows": found.rows}
            subset = {"subset": found.subset} if found.subset else {}
            goals.append({"dataset": found.name, **where, **subset})
        if not goals:
            raise gr.Error(t("search.no_text"), print_exception=False)
        return goals

    def documents(self, given: Given) -> dict[str, list[str]]:
        """Documents of the texts that are not bundled, by name.

        Raises:
            EvaluationError: a line of the visitor's file is no document
            gr.Error: there are no votes, or no chats, and they were chosen
        """
        from searching.data import documents_of  # imports torch

        found = {voice: conversations(voice) for voice in VOICES}
        for name, pairs in self.examples.pairs(given).items():
            if name in (given[self.chosen] or ()):
                if not pairs:
                    raise gr.Error(t(f"search.no_{name}"), print_exception=False)
                found[name] = documents_of_pairs(pairs)
        own = given[self.own] or ""
        if own.strip():
            opened = given[self.opened]
            name = opened[0] if opened and opened[1] == own else OWN
            found[OWN] = list(documents_of(name, own))
        return found

    def _open(self, path: str) -> Updates:
        opened = opened_file(path)
        return {self.own: opened[1], self.opened: opened}

"""The texts of a search: bundled ones, the demo's voices, and the visitor's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from evaluation import EvaluationError
from evaluation.text import BUNDLED, read_text
from ui.host import Host
from ui.languages.translate import error_words, t
from ui.widgets.events import QUIET, Given, Updates

OWN = "own"
# Of a data set.
MAX_ROWS = 1000
_VOICES = Path(__file__).parent / "voices"
# Conversations in the demo's voices; its models were not trained on them.
VOICES = tuple(sorted(path.stem for path in _VOICES.glob("*.json")))


def conversations(voice: str) -> list[str]:
    """The conversations of a voice, as documents of a search."""
    from searching.data import as_document  # imports torch

    pairs = json.loads((_VOICES / f"{voice}.json").read_text("utf-8"))
    return [
        as_document([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
        for asked, answer in pairs
    ]


class SearchTexts:
    """The fields, made inside the page's Blocks.

    Attributes:
        chosen: names of bundled texts
        own: the visitor's text
        guard: name of the text that must not get worse
        inputs: what `goals` and `documents` read
    """

    def __init__(self, host: Host) -> None:
        names = [*(VOICES if host.demo else ()), *BUNDLED]
        choices = [(t(f"search.text.{name}"), name) for name in names]
        self.chosen = gr.CheckboxGroup(
            choices, value=["english"], label=t("search.texts"), info=t("search.texts.info")
        )
        self.own = gr.Textbox(label=t("search.own"), info=t("search.own.info"), lines=3, max_lines=12)
        self.opened = gr.State(None)
        file = gr.UploadButton(t("score.file"), size="sm", file_types=["text", ".jsonl"])
        file.upload(self._open, file, [self.own, self.opened], **QUIET)
        with gr.Accordion(t("score.dataset"), open=False):
            self.dataset = gr.Textbox(
                label=t("score.dataset.name"), info=t("search.dataset.info"), max_lines=1
            )
            with gr.Row():
                self.split = gr.Textbox("train", label=t("score.dataset.split"), max_lines=1, min_width=110)
                self.column = gr.Textbox("text", label=t("score.dataset.column"), max_lines=1, min_width=110)
                self.rows = gr.Number(
                    100,
                    label=t("score.dataset.rows"),
                    precision=0,
                    minimum=10,
                    maximum=MAX_ROWS,
                    min_width=110,
                )
        with gr.Row():
            self.guard = gr.Dropdown(
                [(t("search.guard.none"), ""), *choices], value="", label=t("search.guard"),
                info=t("search.guard.info"), min_width=220,
            )  # fmt: skip
            self.margin = gr.Number(
                0.01, label=t("search.margin"), info=t("search.margin.info"), minimum=0, maximum=10, step=0.01,
                min_width=220,
            )  # fmt: skip
        self.inputs = {
            self.chosen, self.own, self.opened, self.dataset, self.split, self.column, self.rows, self.guard,
            self.margin,
        }  # fmt: skip

    def goals(self, given: Given) -> list[dict[str, Any]]:
        """The texts that the recipe is judged by, as a space names them.

        Raises:
            gr.Error: there are none
        """
        goals: list[dict[str, Any]] = [{"text": name} for name in given[self.chosen] or ()]
        if (given[self.own] or "").strip():
            goals.append({"text": OWN})
        if name := (given[self.dataset] or "").strip():
            rows = min(int(given[self.rows] or 100), MAX_ROWS)
            where = {"column": given[self.column] or "text", "split": given[self.split] or "train"}
            goals.append({"dataset": name, **where, "rows": rows})
        if not goals:
            raise gr.Error(t("search.no_text"), print_exception=False)
        return goals

    def documents(self, given: Given) -> dict[str, list[str]]:
        """Documents of the texts that are not bundled, by name.

        Raises:
            EvaluationError: a line of the visitor's file is no document
        """
        from searching.data import documents_of  # imports torch

        found = {voice: conversations(voice) for voice in VOICES}
        own = given[self.own] or ""
        if own.strip():
            opened = given[self.opened]
            name = opened[0] if opened and opened[1] == own else OWN
            found[OWN] = list(documents_of(name, own))
        return found

    def _open(self, path: str) -> Updates:
        file = path.rpartition("/")[2]
        try:
            content = read_text(path)
        except EvaluationError as error:
            # Visitors need not know where the server keeps the file.
            raise gr.Error(error_words(error).replace(path, file), print_exception=False) from None
        return {self.own: content, self.opened: (file, content)}

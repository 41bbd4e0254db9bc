"""The text that models are scored on: typed, bundled, from a file, or rows of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import gradio as gr

from checkpoints.typed_text import MAX_CHARACTERS, excess
from evaluation import EvaluationError, TextSource
from evaluation.text import BUNDLED, bundled_text, dataset_texts
from ui.host import Host
from ui.languages.translate import current_language, error_words, problem_words, t
from ui.widgets.documents import DatasetFields, DatasetRows, opened_file
from ui.widgets.events import QUIET, Given, Updates

_IN_LANGUAGE = {"ko": "korean"}  # bundled texts, by the tag of a language of the page


@dataclass(frozen=True)
class ChosenText:
    """What models will read.

    Args:
        texts: documents that are scored one by one
        source: where they are from
        whole: False if they were cut to MAX_CHARACTERS
    """

    texts: tuple[str, ...]
    source: TextSource
    whole: bool = True

    @property
    def bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)


class TextFields:
    """The fields, made inside the page's Blocks.

    Attributes:
        document: the text
        inputs: what `chosen` reads
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.document = gr.Textbox(
            _bundled(BUNDLED[0]), label=t("score.text"), info=t("score.text.info"), lines=8, max_lines=20
        )
        # The name of the file that was opened, and its text: once that is edited, it is no longer the file's.
        self.opened = gr.State(None)
        with gr.Row():
            for name in BUNDLED:
                sample = gr.Button(t(f"score.bundled.{name}"), size="sm", min_width=120)
                sample.click(lambda name=name: _bundled(name), None, self.document, **QUIET)
            file = gr.UploadButton(t("score.file"), size="sm", min_width=120, file_types=["text"])
        file.upload(self._open, file, [self.document, self.opened], **QUIET)
        self.dataset = DatasetFields(t("score.dataset.name.info"), "test", least=1, most=10_000)
        self.inputs = {self.document, self.opened, *self.dataset.inputs}

    def chosen(self, given: Given, token: str | Literal[False]) -> ChosenText:
        """The text that the fields say.

        Raises:
            gr.Error: there is none, it is too long, or it cannot be had
        """
        if rows := self.dataset.chosen(given):
            return self._of_dataset(rows, token)
        document = given[self.document] or ""
        if not document.strip():
            raise gr.Error(t("score.no_text"), print_exception=False)
        if problem := excess(document):
            raise gr.Error(" ".join(problem_words(problem)), print_exception=False)
        return _pasted(document, given[self.opened])

    def _of_dataset(self, rows: DatasetRows, token: str | Literal[False]) -> ChosenText:
        try:
            texts = list(
                dataset_texts(
                    rows.name, column=rows.column, rows=rows.rows, split=rows.split, subset=rows.subset,
                    token=token, allow_folders=self.host.allow_folders,
                )
            )  # fmt: skip
        except EvaluationError as error:
            raise gr.Error(error_words(error), print_exception=False) from None
        cut = _cut(texts)
        whole = sum(map(len, cut)) == sum(map(len, texts))
        return ChosenText(
            tuple(cut), TextSource(rows.name, rows.name, rows.subset, rows.split, rows.column), whole
        )

    def _open(self, path: str) -> Updates:
        opened = opened_file(path)
        return {self.document: opened[1], self.opened: opened}


def readers_sample() -> str:
    """The bundled text in the visitor's language, or else in English."""
    return _bundled(_IN_LANGUAGE.get(current_language() or "", BUNDLED[0]))


def _bundled(name: str) -> str:
    return "\n\n".join(bundled_text(name))


def _pasted(document: str, opened: tuple[str, str] | None) -> ChosenText:
    """The text of the field. A bundled text is its paragraphs, as on the command line; any other is one document."""
    for name in BUNDLED:
        if document == _bundled(name):
            return ChosenText(tuple(bundled_text(name)), TextSource(f"Alloy's {name.capitalize()} text"))
    name = opened[0] if opened and opened[1] == document else "pasted text"
    return ChosenText((document,), TextSource(name))


def _cut(texts: Sequence[str]) -> list[str]:
    """The first texts, up to MAX_CHARACTERS in all."""
    kept: list[str] = []
    room = MAX_CHARACTERS
    for text in texts:
        if not room:
            break
        kept.append(text[:room])
        room -= len(kept[-1])
    return kept

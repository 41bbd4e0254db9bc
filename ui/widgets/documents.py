"""Where documents come from on the page: a file that its visitor opens, or rows of a data set on the Hub."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from evaluation import EvaluationError
from evaluation.text import read_text
from ui.languages.translate import error_words, t
from ui.widgets.events import Given


def opened_file(path: str) -> tuple[str, str]:
    """The name and the text of a file that was uploaded.

    Raises:
        gr.Error: it cannot be read as text
    """
    name = path.rpartition("/")[2]
    try:
        return name, read_text(path)
    except EvaluationError as error:
        # Visitors need not know where the server keeps the file.
        raise gr.Error(error_words(error).replace(path, name), print_exception=False) from None


@dataclass(frozen=True)
class DatasetRows:
    """The first rows of a data set.

    Args:
        name: `owner/name`
        subset: its configuration; None for the only one
        split, column: where its texts are
        rows: how many
    """

    name: str
    subset: str | None
    split: str
    column: str
    rows: int


class DatasetFields:
    """The fields, folded, made inside the page's Blocks.

    Args:
        info: what the rows are for
        split: that is mostly wanted
        least, most: rows

    Attributes:
        inputs: what `chosen` reads
    """

    def __init__(self, info: str, split: str, *, least: int, most: int) -> None:
        self._split, self._most = split, most
        with gr.Accordion(t("score.dataset"), open=False):
            self.name = gr.Textbox(label=t("score.dataset.name"), info=info, max_lines=1)
            with gr.Row():
                self.subset = gr.Textbox(label=t("score.dataset.subset"), max_lines=1, min_width=120)
                self.split = gr.Textbox(split, label=t("score.dataset.split"), max_lines=1, min_width=120)
                self.column = gr.Textbox("text", label=t("score.dataset.column"), max_lines=1, min_width=120)
                self.rows = gr.Number(
                    100,
                    label=t("score.dataset.rows"),
                    precision=0,
                    minimum=least,
                    maximum=most,
                    min_width=120,
                )
        self.inputs = {self.name, self.subset, self.split, self.column, self.rows}

    def chosen(self, given: Given) -> DatasetRows | None:
        """What the fields say; None without a name."""
        name = (given[self.name] or "").strip()
        if not name:
            return None
        split, column = given[self.split] or self._split, given[self.column] or "text"
        rows = min(int(given[self.rows] or 100), self._most)
        return DatasetRows(name, (given[self.subset] or "").strip() or None, split, column, rows)

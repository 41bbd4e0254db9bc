"""On the Score tab: how well a merge and its parents predict a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from checkpoints.typed_text import MAX_CHARACTERS
from evaluation import Difference, FetchedModel, Perplexity, TextSource, difference
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import in_each_language, t
from ui.score.panel import Unavailable, fetched, go_and_stop, names_in, ready_for_gpu, settled, where
from ui.score.reading import NONE, TextRow, scored
from ui.score.score_table import score_table
from ui.score.source import ChosenText, TextFields
from ui.score.token_picture import token_picture
from ui.server import gpu
from ui.widgets.events import LONG, NETWORK, Given, Updates
from ui.widgets.html import note
from ui.widgets.stop_button import stops_until


@dataclass(frozen=True)
class ScoredTexts:
    """What was found out about some models on a text.

    Args:
        names: of the models, as they were asked for
        rows: a model each, the first with its score
        texts: what they read
        source: where the texts are from
        differences: of the first model to the others
    """

    names: tuple[str, ...]
    rows: tuple[TextRow, ...]
    texts: tuple[str, ...]
    source: TextSource
    differences: tuple[Difference, ...] = ()

    @property
    def scores(self) -> tuple[Perplexity, ...]:
        return tuple(row.score for row in self.rows if row.score)


@dataclass(frozen=True)
class Begun:
    """Work that was stopped, or whose GPU was taken away.

    Args:
        texts: what is read
        rows: by the models' identities
    """

    texts: tuple[str, ...]
    rows: Mapping[Any, TextRow]


class TextPanel:
    """Scores models on a text; made inside the page's Blocks. A `Panel` that finds a `ScoredTexts`."""

    def __init__(self, host: Host, models: gr.Dropdown) -> None:
        self.host, self.models = host, models
        gr.HTML(in_each_language(lambda: note(t("score.meaning"))))
        self.fields = TextFields(host)
        go, stop, self.turns = go_and_stop(t("score.button"), variant="primary")
        self.table, self.pictures = gr.HTML(), gr.HTML()
        self.found, self.begun = gr.State(None), gr.State(None)
        ready = go.click(
            ready_for_gpu(host), models, None, show_progress="hidden", trigger_mode="once", **NETWORK
        )
        self.ended = ready.success(
            self._score,
            {models, self.begun, *self.fields.inputs},
            [self.table, self.pictures, self.found, self.begun],
            **LONG,
        )
        stops_until(stop, ready, self.ended)

    def _score(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        names, token = names_in(given[self.models]), account(self.host, oauth).for_hub
        text = self.fields.chosen(given, token)
        waiting = score_table([TextRow(name) for name in names], text.bytes)
        yield {self.table: waiting, self.pictures: "", self.found: None}
        models = fetched(names, token, self.host.allow_folders)
        begun: Begun | None = given[self.begun]
        rows_before = begun.rows if begun and begun.texts == text.texts else NONE
        with (
            self.turns.of(request) as turn,
            closing(scored(models, text.texts, rows_before, turn)) as stream,
        ):
            for run, rows in stream:
                begun = _begun(models, rows, text.texts) or begun
                done = all(row.ended for row in rows) and not turn.stopped.is_set()
                yield {**self._shown(names, rows, text, run), self.begun: None if done else begun}

    def _shown(
        self, names: Sequence[str], rows: Sequence[TextRow], text: ChosenText, run: gpu.GpuRun
    ) -> Updates:
        differences = _differences(rows, text.texts)
        notes = [] if text.whole else [t("score.cut", most=MAX_CHARACTERS)]
        shown = score_table(rows, text.bytes, differences, [*notes, *where(run)])
        found = ScoredTexts(tuple(names), tuple(rows), text.texts, text.source, tuple(differences))
        return {
            self.table: settled(shown, rows),
            self.pictures: Markup("").join(token_picture(rows[0], row, text.texts) for row in rows[1:]),
            self.found: found if rows[0].score and rows[0].score.documents else None,
        }


def _begun(
    models: Sequence[FetchedModel | Unavailable], rows: Sequence[TextRow], texts: Sequence[str]
) -> Begun | None:
    """What can be continued; None during a call, whose rows are for the table alone."""
    there = {
        model.identity: replace(row, trouble="")
        for model, row in zip(models, rows, strict=True)
        if isinstance(model, FetchedModel) and (row.unfinished or (row.score and row.score.documents))
    }
    return Begun(tuple(texts), there) if there else None


def _differences(rows: Sequence[TextRow], texts: Sequence[str]) -> list[Difference]:
    """The first model against each of the others, once all of them are scored token by token."""
    first, *others = [row.score for row in rows]
    if not first or not first.documents:
        return []
    return [difference(first, other, texts) for other in others if other and other.documents]

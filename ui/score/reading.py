"""Models that read a text one after the other: each one's perplexity, or how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from evaluation import (
    FetchedModel,
    OtherSliceError,
    Perplexity,
    Unfinished,
    load_fetched,
    perplexity_slice,
)
from ui.score.panel import ModelRow, Unavailable, in_calls, one_by_one
from ui.server import gpu
from ui.server.work import Turn, Work


@dataclass(frozen=True)
class TextRow(ModelRow):
    """A model's row in the table of scores.

    Args:
        done: share of the text that was read, from 0 to 1; None before and after
        score: when it has read everything
        unfinished: what was read, for the next call to continue
    """

    done: float | None = None
    score: Perplexity | None = None
    unfinished: Unfinished | None = None

    @property
    def ended(self) -> bool:
        return bool(self.score or self.trouble)

    @property
    def without_tokens(self) -> TextRow:
        """For the table alone: the scores of all tokens are large, and cross processes on ZeroGPU."""
        score = replace(self.score, documents=()) if self.score else None
        return replace(self, score=score, unfinished=None)


NONE: Mapping[Any, TextRow] = MappingProxyType({})


def scored(
    models: Sequence[FetchedModel | Unavailable],
    documents: Sequence[str],
    begun: Mapping[Any, TextRow] = NONE,
    turn: Turn | None = None,
) -> Generator[tuple[gpu.GpuRun, list[TextRow]], None, None]:
    """Score the text with one model after the other, on a GPU where there is one, in as many calls as it takes.

    Args:
        models: on this machine, or why one is not
        documents: the text
        begun: rows to continue from, by the models' identities
        turn: ends the work when it is stopped

    Yields:
        How it runs, and the table as it fills; between two calls and at the end with the scores of all tokens.
    """
    rows = [
        TextRow(model.name, trouble=model.trouble)
        if isinstance(model, Unavailable)
        else begun.get(model.identity, TextRow(model.name))
        for model in models
    ]
    yield gpu.GpuRun(), rows
    characters = sum(map(len, documents))
    yield from in_calls(models, rows, text_call, documents, characters=characters, turn=turn)


def text_call(
    models: Sequence[FetchedModel | Unavailable],
    documents: Sequence[str],
    rows: Sequence[TextRow],
    seconds: int | None,
    device: str,
) -> Iterator[list[TextRow]]:
    """One GPU call of `scored`, see `one_by_one`."""
    now = list(rows)
    for now in one_by_one(models, rows, seconds, device, partial(_reading, documents, device)):
        yield [row.without_tokens for row in now]
    yield now


def _reading(
    documents: Sequence[str], device: str, model: FetchedModel, row: TextRow, call: gpu.GpuCall
) -> Work:
    name = model.name

    def read(report: Callable[[TextRow], None], cancel: threading.Event) -> TextRow:
        report(replace(row, done=row.done or 0.0))
        live = load_fetched(model, device)

        def continued(unfinished: Unfinished | None) -> Perplexity | Unfinished:
            return perplexity_slice(
                live,
                documents,
                seconds=call.seconds_left(),
                unfinished=unfinished,
                on_progress=lambda done, total: report(TextRow(name, done=done / total)),
                cancel=cancel,
            )

        try:
            found = continued(row.unfinished)
        except OtherSliceError:  # the processor computes in another dtype than the GPU that began
            found = continued(None)
        if isinstance(found, Perplexity):
            return TextRow(name, score=found)
        return TextRow(name, done=found.tokens / found.tokens_in_all, unfinished=found)

    return read

"""Try it first: a merge into memory, and the chat with it, before anything is saved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import gradio as gr
from markupsafe import Markup

from merging import Cancelled, MergeError, Progress
from ui.languages.translate import t
from ui.merge.job_card import job_card
from ui.merge.my_merges import FinishedMerge
from ui.server.in_memory_merges import TriedMerges, TryRequest
from ui.server.internal_error import log_unexpected
from ui.server.jobs import JobStatus
from ui.server.work import watched


def try_first(in_memory: TriedMerges, asked: TryRequest) -> Iterator[tuple[Markup, FinishedMerge | None]]:
    """Merge into memory for a page; when the page is gone, the merge stops.

    Yields:
        A card, and in the end the name to chat with.

    Raises:
        MergeError: it cannot be merged or does not fit.
        gr.Error: an internal error, in words.
    """
    in_memory.check(asked.plan)
    models = tuple(model.name for model in asked.plan.parents)
    running = JobStatus("", asked.name, models, "running")

    def work(report: Callable[[Progress], None], cancel: threading.Event) -> str:
        return in_memory.make(asked, report, cancel)

    yield job_card(running), None
    try:
        with closing(watched(work)) as watching:
            for news in watching:
                if isinstance(news, str):
                    yield Markup(""), FinishedMerge(news, models)
                    return
                if news is not None:
                    running = replace(running, progress=news)
                yield job_card(running), None
    except Cancelled:
        return
    except MergeError:
        raise
    except Exception as error:
        message = t("unexpected", error=log_unexpected(error, asked.who.token))
        raise gr.Error(message, print_exception=False) from None

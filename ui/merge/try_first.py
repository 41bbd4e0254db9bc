"""Try it first: a merge into memory, and the chat with it, before anything is saved."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import gradio as gr

from merging import Cancelled, MergeError, Plan, Progress
from ui.hub.account import Account
from ui.languages.translate import t
from ui.merge.job_card import job_card
from ui.merge.my_merges import FinishedMerge
from ui.server.in_memory_merges import InMemoryMerges
from ui.server.internal_error import log_unexpected
from ui.server.jobs import JobStatus

# Seconds after which a page that has gone is noticed, and its merge stopped.
HEARTBEAT = 0.5


def try_first(
    in_memory: InMemoryMerges, page: str, name: str, plan: Plan, who: Account
) -> Iterator[tuple[str, FinishedMerge | None]]:
    """Merge into memory for a page; when nobody listens any more, the merge stops.

    Yields:
        A card, and in the end the name to chat with.

    Raises:
        MergeError: it cannot be merged or does not fit.
        gr.Error: a defect, in words.
    """
    in_memory.check(plan)
    news: queue.SimpleQueue[Progress | Exception | str] = queue.SimpleQueue()
    cancel = threading.Event()

    def merge() -> None:
        try:
            news.put(in_memory.make(page, name, plan, who, news.put, cancel))
        except Exception as error:
            news.put(error)

    models = tuple(model.name for model in plan.parents)
    running = JobStatus("", name, models, "running")
    yield job_card(running), None
    threading.Thread(target=merge, name="try", daemon=True).start()
    try:
        while True:
            try:
                said = news.get(timeout=HEARTBEAT)
            except queue.Empty:
                yield job_card(running), None
                continue
            match said:
                case Progress():
                    running = JobStatus("", name, models, "running", progress=said)
                case Cancelled():
                    return
                case MergeError():
                    raise said
                case Exception():
                    raise gr.Error(
                        t("unexpected", error=log_unexpected(said, who.token)), print_exception=False
                    )
                case _:
                    yield "", FinishedMerge(said, models)
                    return
            if news.empty():
                yield job_card(running), None
    finally:
        cancel.set()

"""The visitor's merges, the newest first: a card each, with the buttons that its state allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from checkpoints.memory import free_memory
from evaluation import EvaluationError, check_independence
from merging import MergeError, Problem
from ui.host import Host
from ui.hub.account import Account, account, visitor
from ui.hub.recipes import COPY, link_to
from ui.languages.translate import in_each_language, t
from ui.merge.history import id_of, record, record_of_result, restored
from ui.merge.job_card import empty_card, job_card, lost_card
from ui.merge.start import line_of, trouble
from ui.server.internal_error import log_unexpected
from ui.server.jobs import JobStatus
from ui.server.merge_service import MergeService
from ui.widgets.events import LONG, NETWORK, PRIVATE
from ui.widgets.html import size

# So many of a visitor's merges are remembered by the browser.
MOST_REMEMBERED = 6


@dataclass(frozen=True)
class FinishedMerge:
    """A merge that is done: what to chat with, and what to compare it with."""

    location: str
    models: tuple[str, ...]


@dataclass
class _Slot:
    box: gr.Column
    card: gr.HTML
    stop: gr.Button
    retry: gr.Button
    chat: gr.Button
    score: gr.Button
    alone: gr.Button
    reuse: gr.Button
    copy: gr.Button
    link: gr.Textbox
    said: gr.HTML

    @property
    def buttons(self) -> tuple[gr.Button, ...]:
        return self.stop, self.retry, self.chat, self.score, self.alone, self.reuse, self.copy


class MyMerges:
    """The list: made inside the page's Blocks. Gradio's fields are made once, and shown or hidden."""

    def __init__(self, host: Host, service: MergeService) -> None:
        self.host = host
        self.service = service
        self.empty = gr.HTML(in_each_language(empty_card))
        self.slots = [self._slot() for _ in range(MOST_REMEMBERED)]
        self.said = gr.HTML()
        # The browser remembers the visitor's merges, and never a token. What became of them stands apart: a merge
        # that ends must not write over one that begins at the same moment.
        self.jobs = gr.BrowserState([], storage_key="alloy-merges", secret=host.browser_key)
        self.results = gr.BrowserState({}, storage_key="alloy-results", secret=host.browser_key)
        self.drawn = gr.State(())  # the cards as they stand, so that one that did not change stays unfolded
        self.latest = gr.State(None)
        self.clock = gr.Timer(1.0, active=False)

    def _slot(self) -> _Slot:
        with gr.Column(visible=False) as box:
            card = gr.HTML()
            with gr.Row(elem_classes="alloy-actions"):
                stop = gr.Button(
                    t("merge.cancel"), variant="stop", size="sm", visible=False, min_width=120, scale=0
                )
                retry = gr.Button(t("merge.retry"), size="sm", visible=False, min_width=120, scale=0)
                chat = gr.Button(t("merge.chat"), size="sm", visible=False, min_width=120, scale=0)
                score = gr.Button(t("merge.score"), size="sm", visible=False, min_width=120, scale=0)
                alone = gr.Button(t("merge.alone"), size="sm", visible=False, min_width=120, scale=0)
                reuse = gr.Button(t("merge.reuse"), size="sm", visible=False, min_width=120, scale=0)
                copy = gr.Button(t("recipe.link"), size="sm", visible=False, min_width=120, scale=0)
            link = gr.Textbox(visible=False, label=t("recipe.linked"))
            said = gr.HTML()
        return _Slot(box, card, stop, retry, chat, score, alone, reuse, copy, link, said)

    def wire(
        self,
        page: gr.Blocks,
        fields_to_try: Sequence[gr.Dropdown],
        names_to_try: Callable[[FinishedMerge | None], list[str]],
        show: Callable[[str, Any], list[Any]],
        memory: gr.State,
        recipe: list[Any],
        quiet: dict[str, Any],
    ) -> None:
        """Add the events; `show` gives updates of `recipe` for a text and the form's memory."""
        self.names_to_try = names_to_try
        self.tries = len(fields_to_try)
        # The models' fields are among the outputs because Gradio tells nobody of a state that an event
        # without queue changed.
        self.watched = [
            self.empty, self.clock, self.latest, self.drawn, self.results,
            *(part for slot in self.slots for part in (slot.box, slot.card, slot.said, *slot.buttons)),
            *fields_to_try,
        ]  # fmt: skip
        self.watching: dict[str, Any] = {
            "fn": self.watch, "inputs": [self.jobs, self.results, self.latest, self.drawn],
            "outputs": self.watched, **quiet,
        }  # fmt: skip
        self.clock.tick(**self.watching)
        page.load(**self.watching)
        known = [self.jobs, self.results]
        for number, slot in enumerate(self.slots):
            slot.stop.click(self._stopper(number), known, None, **quiet).then(**self.watching)
            slot.copy.click(self._linker(number), known, [slot.link, slot.said], **quiet).then(
                None, slot.link, None, js=COPY, **PRIVATE
            )
            slot.retry.click(
                self._retrier(number), known, [self.jobs, self.said],
                show_progress_on=slot.card, **NETWORK,
            ).then(**self.watching)  # fmt: skip
            slot.alone.click(
                self._checker(number), known, slot.said, concurrency_limit=2, **LONG,
            )  # fmt: skip
            slot.reuse.click(self._reuser(number, show, len(recipe)), [*known, memory], recipe, **quiet)

    def watch(
        self, jobs: object, results: object, latest: FinishedMerge | None, drawn: Sequence[str]
    ) -> tuple[Any, ...]:
        """Updates of `watched`."""
        found = self._found(jobs, results)
        here = [job for job in found if job is not None]
        cards = [job_card(job, self.host.space_id) for job in here]
        lost = len(found) - len(here)
        before = [*drawn, *[""] * MOST_REMEMBERED]
        updates: list[Any] = []
        for number, slot in enumerate(self.slots):
            if number >= len(here):
                updates += [gr.update(visible=False), *[gr.skip()] * (2 + len(slot.buttons))]
                continue
            job = here[number]
            same = cards[number] == before[number]
            done = job.result is not None
            seen = (
                job.is_live,
                job.state in ("failed", "cancelled"),
                *[done and may_run(job)] * 3,
                bool(job.request.recipe),
                bool(job.request.recipe),
            )
            # What was said of a result does not stay when another one moves to its place.
            updates += [gr.update(visible=True), *([gr.skip()] * 2 if same else [cards[number], ""])]
            updates += [
                gr.skip() if same else gr.update(visible=is_seen, interactive=not (i == 0 and job.stopping))
                for i, is_seen in enumerate(seen)
            ]
        finished = next((self.finished(job) for job in here if job.result and may_run(job)), None)
        return (
            gr.update(value=(lost_card() if lost else empty_card()), visible=lost > 0 or not here),
            gr.update(active=any(job.is_live for job in here)),
            finished,
            tuple(cards),
            self._results(here, results),
            *updates,
            *[gr.skip() if finished == latest else gr.update(choices=self.names_to_try(finished))]
            * self.tries,
        )

    def _found(self, jobs: object, results: object) -> list[JobStatus | None]:
        """The remembered merges; of those that the server has forgotten, what the browser says."""
        known = results if isinstance(results, Mapping) else {}
        return [
            self.service.board.status(id_of(kept)) or restored(self.host, kept, known.get(id_of(kept)))
            for kept in remembered(jobs)
        ]

    @staticmethod
    def _results(here: Sequence[JobStatus], before: object) -> Any:
        now = {
            job.id: record_of_result(job.result) for job in here if job.result and not job.request.download
        }
        return gr.skip() if now == before else now

    def at(self, number: int, jobs: object, results: object) -> FinishedMerge | None:
        """The finished merge in a slot."""
        job = self._job(number, jobs, results)
        return self.finished(job) if job and job.result else None

    def finished(self, job: JobStatus) -> FinishedMerge:
        assert job.result
        return FinishedMerge(job.result.location.removeprefix("hf://"), job.models)

    def _job(self, number: int, jobs: object, results: object) -> JobStatus | None:
        here = [job for job in self._found(jobs, results) if job is not None]
        return here[number] if number < len(here) else None

    def _stopper(self, number: int) -> Any:
        def stop(jobs: object, results: object) -> None:
            if job := self._job(number, jobs, results):
                self.service.board.cancel(job.id)

        return stop

    def _retrier(self, number: int) -> Any:
        def retry(
            jobs: object, results: object, request: gr.Request, oauth: gr.OAuthToken | None
        ) -> tuple[Any, Any]:
            job = self._job(number, jobs, results)
            if job is None:
                return gr.skip(), ""
            who = account(self.host, oauth)
            try:
                again = self.service.again(job, who, visitor(who, request))
            except MergeError as error:
                return gr.skip(), "".join(trouble(problem) for problem in error.problems)
            begun = record(self.service.job(again))
            return [begun if id_of(it) == job.id else it for it in remembered(jobs)], ""

        return retry

    def _linker(self, number: int) -> Any:
        def copy(jobs: object, results: object, request: gr.Request) -> tuple[str, str]:
            job = self._job(number, jobs, results)
            if job is None:
                return "", ""
            link = link_to(self.host, job.request.recipe, request)
            return link, line_of(t("jobs.linked", link=link))

        return copy

    def _checker(self, number: int) -> Any:
        def check(jobs: object, results: object, oauth: gr.OAuthToken | None) -> Iterator[str]:
            if job := self._job(number, jobs, results):
                yield line_of(t("alone.checking"))
                yield stands_alone(job, account(self.host, oauth), allow_folders=self.host.allow_folders)

        return check

    def _reuser(self, number: int, show: Callable[[str, Any], list[Any]], outputs: int) -> Any:
        def reuse(jobs: object, results: object, memory: Any) -> list[Any]:
            job = self._job(number, jobs, results)
            return show(job.request.recipe, memory) if job else [gr.skip()] * outputs

        return reuse


def stands_alone(job: JobStatus, who: Account, *, allow_folders: bool) -> str:
    """Whether a finished merge needs nothing but itself, as a line on the page."""
    assert job.result
    name = job.result.location.removeprefix("hf://")
    free = free_memory()
    if job.result.bytes_out > free:
        return _trouble(t("alone.memory", name=name, size=size(job.result.bytes_out), free=size(free)))
    try:
        found = check_independence(
            name, parents=job.models, token=who.token or False, allow_folders=allow_folders
        )
    except EvaluationError as error:
        return _trouble(str(error))
    except Exception as error:
        return _trouble(t("unexpected", error=log_unexpected(error, who.token)))
    if found.ok:
        return line_of(t("alone.yes", name=name, answer=found.answer.strip()))
    return _trouble(t("alone.no", name=name, findings=" ".join(found.findings)))


def _trouble(words: str) -> str:
    return trouble(Problem("independence", words))


def may_run(job: JobStatus) -> bool:
    """Whether chat and scores can read the result: what is to be downloaded they may not."""
    return not job.request.download


def remembered(jobs: object) -> list[Any]:
    """What the browser remembers, whatever somebody wrote into its storage."""
    return list(jobs)[:MOST_REMEMBERED] if isinstance(jobs, list) else []

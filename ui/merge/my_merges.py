"""The visitor's merges, the newest first: a card each, with the buttons that its state allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from checkpoints.memory import free_memory
from checkpoints.names import model_name
from checkpoints.problems import ProblemError
from evaluation import EvaluationError, check_independence
from ui.heal.offer import HealOffer, HealOffers, offer_lines
from ui.host import Host
from ui.hub.account import Account, account, visitor
from ui.hub.recipes import COPY, link_to
from ui.job_tray import REMOVE, tray_lines
from ui.languages.translate import error_words, in_each_language, remark_words, t
from ui.merge.editor import RecipeEditor
from ui.merge.editor_script import SHOW_EDITOR
from ui.merge.form import FormMemory
from ui.merge.history import id_of, is_lost, record, record_of_result, restored
from ui.merge.job_card import job_card, lost_card, no_merges_card
from ui.recipe.presets import family
from ui.rented.merge import begin_again, found_again
from ui.server.internal_error import log_unexpected
from ui.server.jobs import JobStatus
from ui.server.merge_service import MergeService
from ui.widgets.events import LONG, PLANNING, PRIVATE, QUIET, Updates, detail, unchanged
from ui.widgets.html import alert, html, size, status, trouble

# Merges of a visitor that the browser remembers, at most.
MAX_REMEMBERED = 6


@dataclass(frozen=True)
class FinishedMerge:
    """A merge that is done: what to chat with, and what to compare it with."""

    location: str
    models: tuple[str, ...]


class MergeSlot:
    """A card with its buttons, made inside the page's Blocks; Gradio's fields are made once, and shown or hidden."""

    def __init__(self) -> None:
        with gr.Column(visible=False) as self.box:
            self.card = gr.HTML()
            with gr.Row(elem_classes="alloy-actions"):
                self.stop = _button("merge.cancel", variant="stop")
                self.retry = _button("merge.retry")
                self.chat = _button("merge.chat", variant="primary")
                self.score = _button("merge.score")
                self.page = _button("merge.page")
                self.alone = _button("merge.alone")
                self.gguf = _button("merge.gguf")
                self.heal = _button("heal.button")
                self.reuse = _button("merge.reuse")
                self.copy = _button("recipe.link")
            self.link = gr.Textbox(visible=False, label=t("recipe.linked"))
            self.message = gr.HTML()

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `hide` may update."""
        buttons = [
            self.stop, self.retry, self.chat, self.score, self.page, self.alone, self.gguf, self.heal, self.reuse,
            self.copy,
        ]  # fmt: skip
        return [self.box, self.card, self.message, *buttons]

    def hide(self) -> Updates:
        return {self.box: gr.update(visible=False)}

    def show(self, job: JobStatus, card: Markup, before: str, *, can_heal: bool) -> Updates:
        """A job and its card; a card that is as before is left alone, so that what was unfolded stays so."""
        if card == before:
            return {self.box: gr.update(visible=True)}
        readable = job.result is not None and may_run(job)
        again = bool(job.request.recipe)
        return {
            self.box: gr.update(visible=True),
            self.card: card,
            self.message: "",  # it may be about the result that was here before
            self.stop: gr.update(
                value=t("heal.cancel" if job.request.training else "merge.cancel"),
                visible=job.is_live,
                interactive=not job.stopping,
            ),
            self.retry: gr.update(
                visible=job.state in ("failed", "cancelled") and not heals_elsewhere(job),
                interactive=True,
            ),
            self.heal: _offered(can_heal),
            **{button: _offered(readable) for button in (self.chat, self.score, self.alone, self.gguf)},
            self.page: _offered(job.result is not None and not job.request.download),
            **{button: _offered(again) for button in (self.reuse, self.copy)},
        }


class MyMerges:
    """The list, made inside the page's Blocks.

    Attributes:
        slots: from the newest on
        jobs: what the browser remembers of them
        results: what became of them
        latest: a state with the newest `FinishedMerge`, or None
        watching: keyword arguments of an event that looks at all of them
    """

    def __init__(self, host: Host, service: MergeService, heal_offers: HealOffers) -> None:
        self.host = host
        self.service = service
        self.heal_offers = heal_offers
        self.empty = gr.HTML(in_each_language(no_merges_card))
        self.slots = [MergeSlot() for _ in range(MAX_REMEMBERED)]
        self.message = gr.HTML()
        # The browser remembers the visitor's merges, and never a token. What became of them is kept apart: a merge
        # that ends must not write over one that begins at the same moment.
        self.jobs = gr.BrowserState([], storage_key="alloy-merges", secret=host.browser_key)
        self.results = gr.BrowserState({}, storage_key="alloy-results", secret=host.browser_key)
        self.drawn = gr.State(())  # the cards as they are shown
        self.latest = gr.State(None)
        self.clock = gr.Timer(1.0, active=False)

    def wire(
        self, page: gr.Blocks, fields_to_try: Sequence[gr.Dropdown], editor: RecipeEditor, tray: gr.HTML
    ) -> None:
        """Add the events.

        Args:
            page: whose loading shows what the browser remembers
            fields_to_try: of the other tabs, that offer the newest result and its parents
            editor: that a merge's recipe can be put into
            tray: says in a line each what waits or runs
        """
        self.fields_to_try, self.tray = fields_to_try, tray
        # The models' fields are among the outputs because Gradio notifies nothing of a state that an event without
        # queue changed.
        outputs = [
            self.empty, self.clock, self.latest, self.drawn, self.results, tray,
            *(part for slot in self.slots for part in slot.outputs), *fields_to_try,
        ]  # fmt: skip
        inputs = [self.jobs, self.results, self.latest, self.drawn]
        self.watching: dict[str, Any] = {"fn": self._watch, "inputs": inputs, "outputs": outputs, **QUIET}
        self.clock.tick(**self.watching)
        tray.click(self._remove, self.jobs, self.jobs, **QUIET).then(**self.watching)
        page.load(**self.watching)
        for number, slot in enumerate(self.slots):
            self._wire_slot(number, slot, editor)

    def _wire_slot(self, number: int, slot: MergeSlot, editor: RecipeEditor) -> None:
        known = [self.jobs, self.results]
        slot.stop.click(self._stopper(number), known, None, **QUIET).then(**self.watching)
        slot.copy.click(self._linker(number, slot), known, [slot.link, slot.message], **QUIET).then(
            None, slot.link, None, js=COPY, **PRIVATE
        )
        slot.retry.click(
            self._retrier(number), known, [self.jobs, self.message], show_progress_on=slot.card, **PLANNING
        ).then(**self.watching)
        slot.alone.click(self._checker(number), known, slot.message, concurrency_limit=2, **LONG)
        slot.reuse.click(
            self._reuser(number, editor), [*known, editor.form.memory], editor.outputs, **QUIET
        ).then(None, None, None, js=SHOW_EDITOR, **PRIVATE)

    def _watch(
        self,
        jobs: object,
        results: object,
        latest: FinishedMerge | None,
        drawn: Sequence[str],
        request: gr.Request,
        oauth: gr.OAuthToken | None,
    ) -> Updates:
        found = self._followed(self._found(jobs, results), request, oauth)
        here = [job for job in found if job is not None]
        offers = self._offers(here, request, oauth)
        cards = [
            job_card(job, self.host.space_id, self.host.commit, offer_lines(offer) if offer else None)
            for job, offer in zip(here, offers, strict=True)
        ]
        updates: Updates = {}
        for number, slot in enumerate(self.slots):
            if number < len(here):
                before = drawn[number] if number < len(drawn) else ""
                offer = offers[number]
                can_heal = offer is not None and offer.can_heal
                updates |= slot.show(here[number], cards[number], before, can_heal=can_heal)
            else:
                updates |= slot.hide()
        lost = len(here) < len(found)
        updates[self.empty] = gr.update(
            value=lost_card() if lost else no_merges_card(), visible=lost or not here
        )
        updates[self.clock] = gr.update(
            active=any(job.is_live or self.heal_offers.is_pending(job) for job in here)
        )
        updates[self.drawn] = tuple(cards)
        updates[self.tray] = tray_lines(here, "merge")
        kept = {
            job.id: record_of_result(job.result) for job in here if job.result and not job.request.download
        }
        if kept != results:
            updates[self.results] = kept
        newest = next((self.finished(job) for job in here if job.result and may_run(job)), None)
        updates[self.latest] = newest
        if newest != latest:
            choices = gr.update(choices=models_to_try(self.host, newest))
            updates |= dict.fromkeys(self.fields_to_try, choices)
        return updates

    def _offers(
        self, here: Sequence[JobStatus], request: gr.Request, oauth: gr.OAuthToken | None
    ) -> list[HealOffer | None]:
        """What healing each of the results would take, as far as it is known."""
        who = account(self.host, oauth)
        turn = visitor(who, request)
        return [self.heal_offers.of(job, who, turn) for job in here]

    def _remove(self, jobs: object, pressed: gr.EventData) -> Any:
        """Forget a merge that has ended; its result stays where it is."""
        if detail(pressed, "what") != REMOVE:
            return gr.skip()
        found = self.service.board.status(str(detail(pressed, "job")))
        if found is not None and found.is_live:
            return gr.skip()
        return [kept for kept in remembered(jobs) if id_of(kept) != detail(pressed, "job")]

    def _found(self, jobs: object, results: object) -> list[JobStatus | None]:
        """The remembered merges; of those that the server has forgotten, what the browser says."""
        known = results if isinstance(results, Mapping) else {}
        return [
            self.service.board.status(id_of(kept)) or restored(self.host, kept, known.get(id_of(kept)))
            for kept in remembered(jobs)
        ]

    def _followed(
        self, found: list[JobStatus | None], request: gr.Request, oauth: gr.OAuthToken | None
    ) -> list[JobStatus | None]:
        """The same; merges on rented machines that an earlier server began are followed again."""
        if not any(job and is_lost(job) for job in found):
            return found
        who = account(self.host, oauth)
        turn = visitor(who, request)
        return [found_again(self.service, job, who, turn) if job and is_lost(job) else job for job in found]

    def known(self, jobs: object, results: object) -> list[JobStatus]:
        """The merges that the browser remembers, the newest first."""
        return [job for job in self._found(jobs, results) if job is not None]

    def at(self, number: int, jobs: object, results: object) -> FinishedMerge | None:
        """The finished merge in a slot."""
        job = self.job(number, jobs, results)
        return self.finished(job) if job and job.result else None

    def finished(self, job: JobStatus) -> FinishedMerge:
        assert job.result
        return FinishedMerge(model_name(job.result.location), job.models)

    def job(self, number: int, jobs: object, results: object) -> JobStatus | None:
        """The job in a slot."""
        here = self.known(jobs, results)
        return here[number] if number < len(here) else None

    def _stopper(self, number: int) -> Callable[..., None]:
        def stop(jobs: object, results: object) -> None:
            if job := self.job(number, jobs, results):
                self.service.board.cancel(job.id)

        return stop

    def _retrier(self, number: int) -> Callable[..., Updates]:
        def retry(jobs: object, results: object, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
            job = self.job(number, jobs, results)
            if job is None:
                return {self.message: ""}
            who = account(self.host, oauth)
            turn = visitor(who, request)
            try:
                if job.request.training:
                    again = self.heal_offers.heals.again(job, who, turn)
                else:
                    begin = begin_again if job.request.rented else MergeService.again
                    again = begin(self.service, job, who, turn)
            except ProblemError as error:
                return {self.message: html(map(trouble, error.problems))}
            begun = record(self.service.job(again))
            kept = [begun if id_of(it) == job.id else it for it in remembered(jobs)]
            return {self.jobs: kept, self.message: ""}

        return retry

    def _linker(self, number: int, slot: MergeSlot) -> Callable[..., Updates]:
        def copy(jobs: object, results: object, request: gr.Request) -> Updates:
            job = self.job(number, jobs, results)
            if job is None:
                return {slot.link: "", slot.message: ""}
            link = link_to(self.host, job.request.recipe, request)
            return {slot.link: link, slot.message: status(t("jobs.linked", link=link))}

        return copy

    def _checker(self, number: int) -> Callable[..., Iterator[str]]:
        def check(jobs: object, results: object, oauth: gr.OAuthToken | None) -> Iterator[str]:
            if job := self.job(number, jobs, results):
                yield status(t("alone.checking"))
                yield stands_alone(job, account(self.host, oauth), allow_folders=self.host.allow_folders)

        return check

    def _reuser(self, number: int, editor: RecipeEditor) -> Callable[..., Updates]:
        def reuse(jobs: object, results: object, memory: FormMemory) -> Updates:
            job = self.job(number, jobs, results)
            if job is None:
                return unchanged()
            return editor.show(job.request.recipe, memory, t("undo.preset", name=job.title))

        return reuse


def _button(key: str, **looks: Any) -> gr.Button:
    return gr.Button(t(key), size="sm", visible=False, min_width=120, scale=0, **looks)


def _offered(visible: bool) -> Any:
    return gr.update(visible=visible, interactive=True)


def stands_alone(job: JobStatus, who: Account, *, allow_folders: bool) -> Markup:
    """Whether a finished merge needs nothing but itself, as a line on the page."""
    assert job.result
    name = model_name(job.result.location)
    free = free_memory()
    if job.result.bytes_out > free:
        return alert(t("alone.memory", name=name, size=size(job.result.bytes_out), free=size(free)))
    try:
        found = check_independence(
            name, parents=job.models, token=who.token or False, allow_folders=allow_folders
        )
    except EvaluationError as error:
        return alert(error_words(error))
    except Exception as error:
        return alert(t("unexpected", error=log_unexpected(error, who.token)))
    if found.ok:
        return status(t("alone.yes", name=name, answer=found.answer.strip()))
    return alert(t("alone.no", name=name, findings=" ".join(map(remark_words, found.findings))))


def heals_elsewhere(job: JobStatus) -> bool:
    """Whether a job is a training on a rented machine."""
    return job.request.rented is not None and job.request.rented.work == "heal"


def may_run(job: JobStatus) -> bool:
    """Whether chat and scores are offered: they can read no download, and the model of GGUF files is elsewhere."""
    return not (job.request.download or job.request.only_gguf)


def remembered(jobs: object) -> list[Any]:
    """What the browser remembers, whatever its visitor may have written into its storage."""
    return list(jobs)[:MAX_REMEMBERED] if isinstance(jobs, list) else []


def models_to_try(host: Host, finished: FinishedMerge | None) -> list[str]:
    """What the fields of the other tabs offer: the newest result, its parents, and the models of the presets."""
    newest = (finished.location, *finished.models) if finished else ()
    return list(dict.fromkeys([*newest, *family(host.demo).models]))

"""The page of a merge, with an address of its own: what it is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.events import Dependency

from checkpoints.names import model_name
from evaluation import EvaluationError, FetchedModel, fetch_model
from ui.chat.answers import reasoning_of, streamed, trouble_card
from ui.chat.sampling import Sampling
from ui.gallery.hub_merges import HubBusyError, HubMerges
from ui.gallery.tab import GalleryTab
from ui.host import Host
from ui.hub.account import Account, account
from ui.hub.recipes import COPY, page_address, query_of
from ui.languages.translate import error_words, t
from ui.merge.my_merges import MyMerges, may_run
from ui.result.view import (
    ResultView,
    answers_side_by_side,
    no_result_card,
    result_card,
    view_of_job,
)
from ui.server import gpu
from ui.server.jobs import JobStatus
from ui.server.work import Turns
from ui.share.badge import badge_in_markdown
from ui.share.routes import MERGE
from ui.widgets.events import LONG, NETWORK, PRIVATE, QUIET, Updates, unchanged
from ui.widgets.html import alert
from ui.widgets.stop_button import stop_button, stops_from, stops_until

# Models that answer side by side: the merge, and at most this many parents.
MOST_PARENTS, LONGEST_ANSWER = 2, 96
QUESTION = "chat.suggested.1"
# The address of the page that is shown; a Space is in a frame, whose page is told. Without one, the gallery's own.
ADDRESS = """(key) => {
  const address = new URL(window.location);
  if (key) address.searchParams.set("merge", key); else address.searchParams.delete("merge");
  history.replaceState(null, "", address);
  if (window.parent !== window) {
    window.parent.postMessage({queryString: address.search.slice(1), hash: ""}, "https://huggingface.co");
  }
}"""
SHOW_RESULT = """() => document.querySelector(".alloy-result-page")?.scrollIntoView({block: "start"})"""


class ResultPage:
    """The page, made inside the page's Blocks, above the gallery, whose place it takes.

    Attributes:
        view: a state with the `ResultView` that is shown, or None
        chat, measure, heal, export, remix: buttons that the page wires
    """

    def __init__(self, host: Host, merges: HubMerges) -> None:
        self.host, self.merges = host, merges
        self.turns = Turns()
        with gr.Column(visible=False, elem_classes="alloy-result-page") as self.box:
            self.close = gr.Button(t("result.close"), size="sm", scale=0, min_width=140)
            self.card = gr.HTML()
            with gr.Row(elem_classes="alloy-actions"):
                self.chat = _button("merge.chat", variant="primary")
                self.measure = _button("merge.score")
                self.heal = _button("heal.button")
                self.export = _button("merge.gguf")
                self.remix = _button("gallery.remix")
                self.share = _button("result.share")
            self.link = gr.Textbox(label=t("result.link"), visible=False, interactive=False, max_lines=1)
            self.badge = gr.Textbox(
                label=t("result.badge"), info=t("result.badge.info"), visible=False, interactive=False,
                max_lines=1,
            )  # fmt: skip
            with gr.Row(elem_classes="alloy-actions"):
                self.ask = _button("result.ask")
                self.stop = stop_button(t("chat.stop"), size="sm", scale=0, min_width=90)
            self.answers = gr.HTML()
        self.view = gr.State(None)
        self.key = gr.Textbox(visible=False, label=t("result.key"))

    @property
    def _buttons(self) -> list[gr.Button]:
        """Those that suit some merges only."""
        return [self.chat, self.measure, self.heal, self.export, self.remix, self.ask]

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `hide` update."""
        return [
            self.box, self.card, *self._buttons, self.link, self.badge, self.answers, self.view, self.key,
            self.gallery.box,
        ]  # fmt: skip

    def wire(self, gallery: GalleryTab, mine: MyMerges) -> None:
        """Add the events.

        Args:
            gallery: whose place this page takes
            mine: the merges that this browser asked for
        """
        self.gallery, self.mine = gallery, mine
        closed = self.close.click(self._close, None, self.outputs, **QUIET)
        closed.then(None, self.key, None, js=ADDRESS, **PRIVATE)
        self.share.click(self._share, self.view, [self.link, self.badge], **QUIET).then(
            None, self.link, None, js=COPY, **PRIVATE
        )
        stops_from(self.stop, [self.ask.click])
        ready = self.ask.click(self._bring, self.view, None, show_progress="hidden", **NETWORK)
        answered = ready.then(self._answer, self.view, self.answers, **LONG)
        stops_until(self.stop, ready, answered)
        self.stop.click(self.turns.stop, None, None, **QUIET)

    def after(self, shown: Dependency) -> None:
        """Set the browser's address after an event that returned `show`, and bring the page into view."""
        shown.then(None, self.key, None, js=ADDRESS, **PRIVATE).then(
            None, None, None, js=SHOW_RESULT, **PRIVATE
        )

    # -- what is shown ---------------------------------------------------------------------------------

    def find(self, key: str, who: Account, jobs: object, results: object) -> ResultView | None:
        """The merge of an address; None if there is none that this visitor may see.

        Args:
            key: owner/name, or the id of a job that this browser asked for
            jobs, results: what the browser remembers of its merges

        Raises:
            HubBusyError: the Hub does not answer, and the browser does not know the merge.
        """
        job = self._job(key, jobs, results)
        try:
            found = self.merges.merge(key, who)
        except HubBusyError:
            if job is None:
                raise
            found = None
        if job is not None:
            return view_of_job(job, found, can_run=may_run(job))
        return ResultView(found.model.name, found, can_run=found.model.has_weights) if found else None

    def show(self, view: ResultView) -> Updates:
        """The page of a merge, in place of the gallery."""
        remix = bool(view.merge.recipe)
        shown = {
            self.chat: view.can_run, self.measure: view.can_run, self.export: view.can_run and view.on_hub,
            self.ask: view.can_run and bool(view.parents), self.remix: remix, self.heal: remix and view.can_heal,
        }  # fmt: skip
        return {
            self.box: gr.update(visible=True),
            self.card: result_card(view),
            self.answers: "",
            self.view: view,
            self.key: view.key,
            self.gallery.box: gr.update(visible=False),
            **{button: gr.update(visible=visible) for button, visible in shown.items()},
            **dict.fromkeys((self.link, self.badge), gr.update(visible=False)),
        }

    def refused(self, *, silent: bool) -> Updates:
        """The line for an address that leads to nothing, above the gallery."""
        return {
            **self._close(),
            self.box: gr.update(visible=True),
            self.card: no_result_card(silent),
            **dict.fromkeys(self._buttons, gr.update(visible=False)),
        }

    def _close(self) -> Updates:
        return {
            self.box: gr.update(visible=False),
            self.gallery.box: gr.update(visible=True),
            self.view: None,
            self.key: "",
        }

    def _job(self, key: str, jobs: object, results: object) -> JobStatus | None:
        """A job that this browser asked for, by its id or its result's name."""
        for job in self.mine.known(jobs, results):
            if job.result and key in (job.id, model_name(job.result.location)):
                return job
        return None

    def _share(self, view: ResultView | None, request: gr.Request) -> Updates:
        """The link, and for a public model the badge for its card."""
        if view is None:
            return unchanged()
        page = page_address(self.host, request.headers)
        is_public = view.on_hub and not view.merge.model.private
        query = f"{MERGE}={view.merge.model.name}" if is_public else query_of(view.merge.recipe)
        badge = badge_in_markdown(page, view.merge.model.name) if is_public else ""
        return {
            self.link: gr.update(value=f"{page}/share?{query}", visible=True),
            self.badge: gr.update(value=badge, visible=is_public),
        }

    # -- answers ---------------------------------------------------------------------------------------

    def _bring(self, view: ResultView | None, oauth: gr.OAuthToken | None) -> None:
        """Fetch the models before a GPU is asked for; `_answer` reports failures."""
        if view and gpu.is_zero_gpu():
            try:
                self._fetched(view, account(self.host, oauth))
            except EvaluationError:
                return

    def _fetched(self, view: ResultView, who: Account) -> list[FetchedModel]:
        names = [view.location, *view.parents[:MOST_PARENTS]]
        return [fetch_model(name, token=who.for_hub, allow_folders=self.host.allow_folders) for name in names]

    def _answer(
        self, view: ResultView | None, request: gr.Request, oauth: gr.OAuthToken | None
    ) -> Iterator[Any]:
        if view is None:
            yield gr.skip()
            return
        question = t(QUESTION)
        names = [view.merge.model.name, *view.parents[:MOST_PARENTS]]
        yield answers_side_by_side(question, names, [""] * len(names))
        with self.turns.of(request) as turn:
            try:
                models = self._fetched(view, account(self.host, oauth))
                talks = [[{"role": "user", "content": question}] for _ in models]
                sampling = Sampling(temperature=0, max_new_tokens=LONGEST_ANSWER)
                with closing(streamed(models, talks, sampling)) as stream:
                    for _, answers in stream:
                        said = [reasoning_of(answer.text)[1] for answer in answers]
                        yield answers_side_by_side(question, names, said)
                        if turn.stopped.is_set():
                            return
            except gr.Error as error:
                yield trouble_card(str(error.message))
            except EvaluationError as error:
                yield alert(error_words(error))


def _button(key: str, **looks: Any) -> gr.Button:
    return gr.Button(t(key), size="sm", min_width=120, scale=0, **looks)

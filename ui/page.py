"""The page: its head, its tabs, and what runs between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import gradio as gr
from fastapi import HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse
from gradio.utils import get_icon_path
from markupsafe import Markup
from starlette.middleware import Middleware

from evaluation.downloads import DOWNLOADS
from ui.api import Api
from ui.chat.answers import Message
from ui.chat.tab import ChatTab
from ui.chat.tuning import Tuning, use_values
from ui.gallery.hub_merges import GalleryMerge, HubBusyError, HubMerges
from ui.gallery.tab import GalleryTab
from ui.host import Host
from ui.hub.account import account
from ui.hub.search import KEEP_NAMES, HubSearch
from ui.hub.sign_in import SIGN_IN, SIGN_OUT, go_to, sign_in_routes
from ui.job_tray import SHOW, JobTray
from ui.languages.registry import LANGUAGES
from ui.languages.translate import in_each_language, speaking, spoken, t, translated
from ui.merge.editor_script import SHOW_EDITOR
from ui.merge.form import FormMemory
from ui.merge.my_merges import FinishedMerge, MergeSlot
from ui.merge.tab import MergeTab
from ui.methods.tab import MethodsTab
from ui.result.result_page import ADDRESS, ResultPage
from ui.result.view import ResultView
from ui.score.source import readers_sample
from ui.score.tab import ScoreTab
from ui.search.tab import SearchTab
from ui.server.body_limit import BodyLimit
from ui.server.jobs import JobBoard
from ui.server.merge_service import MergeService
from ui.server.searches import SearchService
from ui.server.sessions import MAX_SESSIONS, NO_STATE_LINKS, keep_sessions_small
from ui.server.turn_limit import TurnLimit
from ui.share.routes import MERGE, share_routes
from ui.widgets.events import PRIVATE, QUIET, UNSEEN, Updates, detail, unchanged
from ui.widgets.html import tag
from ui.widgets.theme import CSS, theme

# Two metals that run into each other.
_MARK = Markup(
    '<svg viewBox="0 0 48 48" aria-hidden="true"><defs><clipPath id="a"><circle cx="18" cy="24" r="15"/></clipPath>'
    '</defs><circle cx="18" cy="24" r="15" fill="#c76d2f"/><circle cx="30" cy="24" r="15" fill="#8a8580"/>'
    '<circle cx="30" cy="24" r="15" fill="#eab080" clip-path="url(#a)"/></svg>'
)
# A screen reader reads in the document's language, which Gradio sets to English for everyone.
_SET_LANGUAGE = """() => {
    const [language] = navigator.language.toLowerCase().split("-");
    if (LANGUAGES.includes(language)) document.documentElement.lang = language;
}"""


# Bytes of a file that a visitor uploads (a recipe, a text to score), and the seconds after which it is deleted.
MAX_UPLOAD, SECONDS_OF_AN_UPLOAD = 20_000_000, 3600


# Brings the top of a tab that the page itself opens into view.
SHOW_TAB = """() => document.querySelector("[role=tablist]")?.scrollIntoView({block: "start"})"""


# Brings the fields for GGUF files of any model into view.
SHOW_EXPORT = """() => setTimeout(() => {
  document.querySelector(".alloy-gguf")?.scrollIntoView({block: "center"});
}, 100)"""
# Of an address: names on the Hub and ids of jobs are shorter.
MAX_KEY = 200


class Page:
    """The tabs, and what runs between them: results of the Merge tab are opened in the others."""

    def __init__(self, host: Host, blocks: gr.Blocks) -> None:
        self.host = host
        self.blocks = blocks
        self.service = MergeService(host, JobBoard())
        self.searches = SearchService(self.service)
        with gr.Row(equal_height=False):
            gr.HTML(in_each_language(_head))
            self.tray = JobTray()
            if host.sign_in:
                _sign_in(blocks)
        search = HubSearch()
        with gr.Tabs() as self.tabs:
            with gr.Tab(t("page.tab.merge"), id="merge"):
                self.merge = MergeTab(host, self.service, search)
            with gr.Tab(t("page.tab.search"), id="search") as self.search_opened:
                self.search = SearchTab(host, self.searches)
            with gr.Tab(t("page.tab.chat"), id="chat") as self.chat_opened:
                self.chat = ChatTab(host, search, self.service)
            with gr.Tab(t("page.tab.score"), id="score") as self.score_opened:
                self.score = ScoreTab(host, search)
            with gr.Tab(t("page.tab.gallery"), id="gallery") as self.gallery_opened:
                merges = HubMerges()
                self.result = ResultPage(host, merges)
                self.gallery = GalleryTab(merges)
            with gr.Tab(t("page.tab.methods"), id="methods"):
                MethodsTab()
        # What is inside a tab is restored from the browser when the tab is first opened; these are wanted before.
        for stored in (self.search.job, self.chat.preferences.stored):
            stored.render()  # type: ignore[no-untyped-call]
        # The newest result is put into the other tabs' fields when they are opened, but only once, and not over one
        # that a button put there meanwhile: each tab remembers the newest result at the time its fields were filled.
        self.in_chat, self.in_score = gr.State(""), gr.State("")
        # The merge that is made ready for the Chat tab. Only its change takes a place in the line for models: nobody
        # waits behind a place of their own that does nothing.
        self.warm = gr.State("")
        self.chat_outputs = [*self.chat.outputs, self.in_chat]
        self.score_outputs = [self.score.models, self.in_score]

    def wire(self) -> None:
        """Add the events."""
        merge, latest = self.merge, self.merge.mine.latest
        merge.wire(self.blocks, [*self.chat.models, self.score.models], self.tray.merges)
        self.tray.search.click(_asked_for, None, self.tabs, **QUIET)
        self.chat_opened.select(
            self._open_chat, [latest, self.chat.conversation, self.in_chat], self.chat_outputs, **QUIET
        ).then(self._newest_in_chat, [latest, self.chat.models[0]], self.warm, **UNSEEN)
        self.warm.change(self.chat.warm_up, {*self.chat.models}, None, concurrency_id="model", **UNSEEN)
        self.score_opened.select(self._open_score, [latest, self.in_score], self.score_outputs, **QUIET)
        self.blocks.load(None, None, None, js=KEEP_NAMES, **PRIVATE)
        self.blocks.load(readers_sample, None, self.score.document, **QUIET)
        self._wire_search()
        self._wire_gallery()
        for trial in (merge.trial, self.trial_of_search):
            trial.success(
                self._chat_with_trial, [merge.tried, latest], [*self.chat_outputs, self.tabs], **QUIET
            ).then(None, None, None, js=SHOW_TAB, **PRIVATE)
        self.blocks.unload(self._left)
        tuner, editor = self.chat.tuner, merge.editor
        tuned = [tuner.state, editor.yaml, editor.form.memory]
        tuner.use.click(self._use_values, tuned, [*editor.outputs, self.tabs], **QUIET).then(
            None, None, None, js=SHOW_EDITOR, **PRIVATE
        )
        for number, slot in enumerate(merge.mine.slots):
            self._wire_slot(number, slot)

    def _wire_search(self) -> None:
        """The recipe that a search found goes to the Merge tab; there it is tried or merged, as its buttons would."""
        search, merge = self.search, self.merge
        search.wire(self.blocks, self.search_opened, merge.editor, self.chat.examples, self.tray.search)
        found, shown = [search.job, merge.editor.form.memory], [*merge.editor.outputs, self.tabs]
        search.use.click(self._use_found, found, shown, **QUIET).then(
            None, None, None, js=SHOW_EDITOR, **PRIVATE
        )
        self.trial_of_search = search.try_it.click(self._use_found, found, shown, **QUIET).then(
            **merge.trying_it
        )
        search.merge_it.click(self._use_found, found, shown, **QUIET).then(**merge.merging_it).success(
            **merge.mine.watching
        )

    def _wire_gallery(self) -> None:
        """A merge of the gallery, of the visitor or of an address is shown, and leads to the other tabs."""
        gallery, result, mine, editor = self.gallery, self.result, self.merge.mine, self.merge.editor
        gallery.wire(self.gallery_opened)
        result.wire(gallery, mine)
        memory, shown = editor.form.memory, [*result.outputs, self.tabs]
        pressed = gallery.cards.click(
            self._press_in_gallery, [gallery.shown, memory, mine.latest],
            [*editor.outputs, *self.chat_outputs, *shown], **QUIET,
        )  # fmt: skip
        pressed.then(None, result.key, None, js=ADDRESS, **PRIVATE).then(
            None, None, None, js=SHOW_TAB, **PRIVATE
        )
        known = [mine.jobs, mine.results]
        for number, slot in enumerate(mine.slots):
            result.after(slot.page.click(self._page_opener(number), known, shown, **QUIET))
        result.after(self.tray.merges.click(self._show_job, known, shown, **QUIET))
        self.blocks.load(self._open_address, known, shown, **QUIET)
        result.chat.click(
            self._chat_with_result, [result.view, mine.latest], [*self.chat_outputs, self.tabs], **QUIET
        ).then(None, None, None, js=SHOW_TAB, **PRIVATE)
        result.measure.click(
            self._measure_result, [result.view, mine.latest], [*self.score_outputs, self.tabs], **QUIET
        ).then(None, None, None, js=SHOW_TAB, **PRIVATE)
        for button in (result.remix, result.heal):
            button.click(
                self._remix_result, [result.view, memory], [*editor.outputs, self.tabs], **QUIET
            ).then(None, None, None, js=SHOW_EDITOR, **PRIVATE)
        gguf = self.merge.gguf
        result.export.click(
            self._export_result, result.view, [gguf.model, gguf.any_model, self.tabs], **QUIET
        ).then(None, None, None, js=SHOW_EXPORT, **PRIVATE)

    def _press_in_gallery(
        self,
        shown: Sequence[GalleryMerge],
        memory: FormMemory,
        latest: FinishedMerge | None,
        pressed: gr.EventData,
        request: gr.Request,
    ) -> Updates:
        what, found = self.gallery.pressed(pressed, shown)
        if found is None:
            return unchanged()
        view = ResultView(found.model.name, found, can_run=found.model.has_weights)
        match what:
            case "open":
                return self.result.show(view)
            case "chat":
                return self._chat_with_result(view, latest, request)
            case "remix":
                return self._remix_result(view, memory)
        return unchanged()

    def _page_opener(self, number: int) -> Callable[..., Updates]:
        """Shows the page of the finished merge in a slot."""

        def opened(jobs: object, results: object, oauth: gr.OAuthToken | None) -> Updates:
            job = self.merge.mine.job(number, jobs, results)
            if job is None or job.result is None:
                return unchanged()
            return self._open_page(job.id, jobs, results, oauth)

        return opened

    def _show_job(
        self, jobs: object, results: object, pressed: gr.EventData, oauth: gr.OAuthToken | None
    ) -> Updates:
        """The page of a merge that is done, or the tab that shows it."""
        if detail(pressed, "what") != SHOW:
            return unchanged()
        named = detail(pressed, "job")
        job = next((job for job in self.merge.mine.known(jobs, results) if job.id == named), None)
        if job is None or job.result is None or job.request.download:
            return {self.tabs: gr.Tabs(selected="merge")}
        return self._open_page(job.id, jobs, results, oauth)

    def _open_address(
        self, jobs: object, results: object, request: gr.Request, oauth: gr.OAuthToken | None
    ) -> Updates:
        """The page of the merge that the address names."""
        key = str(dict(request.query_params).get(MERGE, ""))[:MAX_KEY]
        return self._open_page(key, jobs, results, oauth) if key else unchanged()

    def _open_page(self, key: str, jobs: object, results: object, oauth: gr.OAuthToken | None) -> Updates:
        silent = False
        try:
            view = self.result.find(key, account(self.host, oauth), jobs, results)
        except HubBusyError:
            view, silent = None, True
        shown = self.result.show(view) if view else self.result.refused(silent=silent)
        return {**shown, self.tabs: gr.Tabs(selected="gallery")}

    def _chat_with_result(
        self, view: ResultView | None, latest: FinishedMerge | None, request: gr.Request
    ) -> Updates:
        if view is None:
            return unchanged()
        finished = FinishedMerge(view.location, view.parents)
        return {**self._to_chat(finished, latest, request), self.tabs: gr.Tabs(selected="chat")}

    def _measure_result(self, view: ResultView | None, latest: FinishedMerge | None) -> Updates:
        if view is None:
            return unchanged()
        finished = FinishedMerge(view.location, view.parents)
        return {**self._to_score(finished, latest), self.tabs: gr.Tabs(selected="score")}

    def _remix_result(self, view: ResultView | None, memory: FormMemory) -> Updates:
        if view is None or not view.merge.recipe:
            return unchanged()
        said = t("undo.remix", name=view.merge.model.name)
        return {
            **self.merge.editor.show(view.merge.recipe, memory, said),
            self.tabs: gr.Tabs(selected="merge"),
        }

    def _export_result(self, view: ResultView | None) -> Updates:
        if view is None:
            return unchanged()
        gguf = self.merge.gguf
        return {
            gguf.model: view.location, gguf.any_model: gr.Accordion(open=True),
            self.tabs: gr.Tabs(selected="merge"),
        }  # fmt: skip

    def _use_found(self, job: object, memory: FormMemory) -> Updates:
        recipe = self.search.recipe(job)
        if not recipe:
            return unchanged()
        return {
            **self.merge.editor.show(recipe, memory, t("undo.found")),
            self.tabs: gr.Tabs(selected="merge"),
        }

    def _wire_slot(self, number: int, slot: MergeSlot) -> None:
        mine, models = self.merge.mine, {*self.chat.models}
        known = [mine.jobs, mine.results, mine.latest]
        slot.chat.click(self._opener(number, self._to_chat), known, self.chat_outputs, **QUIET).then(
            lambda: gr.Tabs(selected="chat"), None, self.tabs, **QUIET
        ).then(None, None, None, js=SHOW_TAB, **PRIVATE).then(
            self.chat.bring, models, None, concurrency_limit=4, **UNSEEN
        ).then(self.chat.warm_up, models, None, concurrency_id="model", **UNSEEN)
        slot.score.click(self._opener(number, self._to_score), known, self.score_outputs, **QUIET).then(
            lambda: gr.Tabs(selected="score"), None, self.tabs, **QUIET
        ).then(None, None, None, js=SHOW_TAB, **PRIVATE)

    def _to_chat(self, shown: FinishedMerge, latest: FinishedMerge | None, request: gr.Request) -> Updates:
        names = shown.location, next(iter(shown.models), None)
        return {**self.chat.open_with(names, request), self.in_chat: _location(latest)}

    def _to_score(
        self, shown: FinishedMerge, latest: FinishedMerge | None, request: gr.Request | None = None
    ) -> Updates:
        models = [shown.location, *dict.fromkeys(shown.models)]
        return {self.score.models: models, self.in_score: _location(latest)}

    def _open_chat(
        self, latest: FinishedMerge | None, conversation: list[Message], shown: str, request: gr.Request
    ) -> Updates:
        if latest is None or conversation or latest.location == shown:
            return unchanged()
        return self._to_chat(latest, latest, request)

    def _newest_in_chat(self, latest: FinishedMerge | None, model: str | None) -> Any:
        """The page's newest merge, if the Chat tab's first field holds it."""
        return latest.location if latest and latest.location == model else gr.skip()

    def _open_score(self, latest: FinishedMerge | None, shown: str, request: gr.Request) -> Updates:
        if latest is None or latest.location == shown:
            return unchanged()
        return self._to_score(latest, latest, request)

    def _opener(self, number: int, show: Callable[..., Updates]) -> Callable[..., Updates]:
        """Shows the finished merge in a slot."""

        def opened(
            jobs: object, results: object, latest: FinishedMerge | None, request: gr.Request
        ) -> Updates:
            finished = self.merge.mine.at(number, jobs, results)
            return show(finished, latest, request) if finished else unchanged()

        return opened

    def _chat_with_trial(
        self, trial: FinishedMerge | None, latest: FinishedMerge | None, request: gr.Request
    ) -> Updates:
        if trial is None:
            return unchanged()
        return {**self._to_chat(trial, latest, request), self.tabs: gr.Tabs(selected="chat")}

    def _left(self, request: gr.Request) -> None:
        self.service.in_memory.forget(str(request.session_hash))

    def _use_values(self, tuning: Tuning | None, recipe: str, memory: FormMemory) -> Updates:
        changed = use_values(tuning, recipe)
        if changed is None:
            return unchanged()
        return {
            **self.merge.editor.show(changed, memory, t("undo.values")),
            self.tabs: gr.Tabs(selected="merge"),
        }


def build_page(host: Host) -> gr.Blocks:
    """The whole page, ready to be launched."""
    if host.on_space:
        DOWNLOADS.limit()
    kept = (SECONDS_OF_AN_UPLOAD // 4, SECONDS_OF_AN_UPLOAD)
    blocks = gr.Blocks(title=t("page.title"), analytics_enabled=False, delete_cache=kept)
    with blocks:
        page = Page(host, blocks)
        page.wire()
        Api(page.service, page.searches).add()
    return blocks


def _head() -> Markup:
    words = tag.div(tag.h1(t("page.title")), tag.p(t("page.subtitle")))
    return tag.header(_MARK, words, class_="alloy-head")


def _asked_for(line: gr.EventData) -> Any:
    """The tab that shows the search of a line."""
    return gr.Tabs(selected="search") if detail(line, "what") == SHOW else gr.skip()


def _location(latest: FinishedMerge | None) -> str:
    return latest.location if latest else ""


def _sign_in(page: gr.Blocks) -> None:
    """The buttons to sign in and out; without OAuth the page would not start with them."""
    # Lets Gradio answer the two addresses below. It is hidden: its words are English for everyone, and its own label
    # decides which address it goes to.
    gr.LoginButton(visible=False)
    enter = gr.Button(
        t("account.sign_in"), icon=get_icon_path("huggingface-logo.svg"), scale=0, min_width=200
    )
    leave = gr.Button(visible=False, scale=0, min_width=200)

    def who(profile: gr.OAuthProfile | None) -> Updates:
        if profile is None:
            return {enter: gr.update(visible=True), leave: gr.update(visible=False)}
        label = t("account.sign_out", name=profile.username)
        return {enter: gr.update(visible=False), leave: gr.update(value=label, visible=True)}

    page.load(who, None, [enter, leave], **QUIET)
    for button, address in ((enter, SIGN_IN), (leave, SIGN_OUT)):
        button.click(None, None, None, js=go_to(address), **PRIVATE)


async def _busy(request: Request, error: Exception) -> Response:
    """Tell a browser in its language that the queue is full.

    For status 503 Gradio's page has its own sentence, always in English; for other statuses it shows the detail.
    Gradio's clients, which ask for no language, get 503.
    """
    assert isinstance(error, HTTPException)
    asked = request.headers.get("accept-language")
    if not asked:
        return await http_exception_handler(request, error)
    with speaking(spoken(asked)):
        return JSONResponse({"detail": t("page.busy")}, HTTPStatus.TOO_MANY_REQUESTS)


def launch_settings(page: gr.Blocks, host: Host) -> dict[str, Any]:
    """The arguments of `launch`, for everything that launches the page."""
    keep_sessions_small()
    return {
        "theme": theme(),
        "css": CSS,
        "js": _SET_LANGUAGE.replace("LANGUAGES", json.dumps(list(LANGUAGES))),
        "i18n": translated(page),
        # The history stores every input of every call in the browser, in plain text.
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": True,
        # Results to download, each under an unguessable name.
        "allowed_paths": [str(host.downloads)],
        "max_file_size": MAX_UPLOAD,
        "state_session_capacity": MAX_SESSIONS,
        "footer_links": ["api", "settings"],
        # Gradio would not start where its own page takes more than three seconds to answer.
        "_frontend": False,
        "app_kwargs": {
            "exception_handlers": {HTTPStatus.SERVICE_UNAVAILABLE: _busy},
            "middleware": [Middleware(TurnLimit), Middleware(BodyLimit, uploads=2 * MAX_UPLOAD)],
            "routes": [NO_STATE_LINKS, *share_routes(host, HubMerges()), *sign_in_routes(host)],
        },
    }

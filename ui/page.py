"""The page: its head, its tabs, and what runs between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import gradio as gr
from fastapi import HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse
from gradio.utils import get_icon_path

from evaluation.downloads import DOWNLOADS
from ui.api import add_api
from ui.chat.answers import Message
from ui.chat.tab import ChatTab
from ui.chat.tuning import Tuning, use_values
from ui.host import Host
from ui.hub.search import HubSearch
from ui.languages.translate import LANGUAGES, in_each_language, speaking, spoken, t, translated
from ui.merge.form import FormMemory
from ui.merge.my_merges import FinishedMerge
from ui.merge.tab import MergeTab
from ui.methods.tab import methods_tab
from ui.score.tab import ScoreTab
from ui.server.jobs import JobBoard
from ui.server.merge_service import MergeService
from ui.widgets.events import PRIVATE, QUIET, UNSEEN, Updates, unchanged
from ui.widgets.html import text
from ui.widgets.theme import CSS, theme

# Two metals that run into one another.
_MARK = (
    '<svg viewBox="0 0 48 48" aria-hidden="true"><defs><clipPath id="a"><circle cx="18" cy="24" r="15"/></clipPath>'
    '</defs><circle cx="18" cy="24" r="15" fill="#c76d2f"/><circle cx="30" cy="24" r="15" fill="#8a8580"/>'
    '<circle cx="30" cy="24" r="15" fill="#eab080" clip-path="url(#a)"/></svg>'
)
# As Gradio's own button goes there: a Space's frame may scroll from here on, the state has a moment to be kept, and
# the query, which may hold a recipe, goes along.
_GO = """() => {
    window.parent?.postMessage({ type: "SET_SCROLLING", enabled: true }, "*");
    setTimeout(() => location.assign("ADDRESS?_target_url=/" + location.search), 500);
}"""

# A screen reader asks the document in which language to read; Gradio's says English to everybody.
_TONGUE = """() => {
    const [tongue] = navigator.language.toLowerCase().split("-");
    if (LANGUAGES.includes(tongue)) document.documentElement.lang = tongue;
}"""


def build_page(host: Host) -> gr.Blocks:
    """The whole page, ready to be launched."""
    service = MergeService(host, JobBoard())
    if host.on_space:
        DOWNLOADS.limit()
    search = HubSearch()
    page = gr.Blocks(title=t("page.title"), analytics_enabled=False)
    with page:
        with gr.Row(equal_height=False):
            gr.HTML(
                in_each_language(
                    lambda: (
                        f'<header class="alloy-head">{_MARK}<div><h1>{text(t("page.title"))}</h1>'
                        f"<p>{text(t('page.subtitle'))}</p></div></header>"
                    )
                )
            )
            if host.sign_in:
                _sign_in(page)
        with gr.Tabs() as tabs:
            with gr.Tab(t("page.tab.merge"), id="merge"):
                merge = MergeTab(host, service, search)
            with gr.Tab(t("page.tab.chat"), id="chat") as chat_opened:
                chat = ChatTab(host, search, service)
            with gr.Tab(t("page.tab.score"), id="score") as score_opened:
                score = ScoreTab(host, search)
            with gr.Tab(t("page.tab.methods"), id="methods"):
                methods_tab()
        merge.wire(page, [*chat.models, score.models])

        # The newest result is put into the other tabs' fields when they are opened, but once, and not over one that a
        # button put there meanwhile: each remembers which was the newest when its fields were filled last.
        in_chat, in_score = gr.State(""), gr.State("")

        def to_chat(shown: FinishedMerge, latest: FinishedMerge | None, request: gr.Request) -> Updates:
            names = shown.location, next(iter(shown.models), None)
            return {**chat.open_with(names, request), in_chat: newest(latest)}

        def to_score(shown: FinishedMerge, latest: FinishedMerge | None, request: gr.Request) -> Updates:
            return {score.models: [shown.location, *dict.fromkeys(shown.models)], in_score: newest(latest)}

        def newest(latest: FinishedMerge | None) -> str:
            return latest.location if latest else ""

        def open_chat(
            latest: FinishedMerge | None, conversation: list[Message], shown: str, request: gr.Request
        ) -> Updates:
            if latest is None or conversation or latest.location == shown:
                return unchanged()
            return to_chat(latest, latest, request)

        def open_score(latest: FinishedMerge | None, shown: str, request: gr.Request) -> Updates:
            if latest is None or latest.location == shown:
                return unchanged()
            return to_score(latest, latest, request)

        def chosen(
            number: int,
            show: Callable[[FinishedMerge, FinishedMerge | None, gr.Request], Updates],
        ) -> Callable[..., Updates]:
            def shown(
                jobs: object, results: object, latest: FinishedMerge | None, request: gr.Request
            ) -> Updates:
                finished = merge.mine.at(number, jobs, results)
                return show(finished, latest, request) if finished else unchanged()

            return shown

        chat_fields, score_fields = [*chat.outputs, in_chat], [score.models, in_score]
        chat_opened.select(open_chat, [merge.mine.latest, chat.conversation, in_chat], chat_fields, **QUIET)
        score_opened.select(open_score, [merge.mine.latest, in_score], score_fields, **QUIET)

        def tried(trial: FinishedMerge | None, latest: FinishedMerge | None, request: gr.Request) -> Updates:
            if trial is None:
                return unchanged()
            return {**to_chat(trial, latest, request), tabs: gr.Tabs(selected="chat")}

        def left(request: gr.Request) -> None:
            service.in_memory.forget(str(request.session_hash))

        merge.trial.success(tried, [merge.tried, merge.mine.latest], [*chat_fields, tabs], **QUIET)
        page.unload(left)

        def taken_back(tuning: Tuning | None, recipe: str, memory: FormMemory) -> list[Any] | Updates:
            changed = use_values(tuning, recipe)
            return (
                unchanged() if changed is None else [*merge.show(changed, memory), gr.Tabs(selected="merge")]
            )

        chat.tuner.use.click(
            taken_back, [chat.tuner.state, merge.yaml, merge.form.memory], [*merge.recipe, tabs], **QUIET
        )
        known = [merge.mine.jobs, merge.mine.results, merge.mine.latest]
        for number, slot in enumerate(merge.mine.slots):
            slot.chat.click(chosen(number, to_chat), known, chat_fields, **QUIET).then(
                lambda: gr.Tabs(selected="chat"), None, tabs, **QUIET
            ).then(chat.bring, {*chat.models}, None, concurrency_limit=4, **UNSEEN).then(
                chat.warm_up, {*chat.models}, None, concurrency_id="model", **UNSEEN
            )
            slot.score.click(chosen(number, to_score), known, score_fields, **QUIET).then(
                lambda: gr.Tabs(selected="score"), None, tabs, **QUIET
            )
        add_api(service)
    return page


def _sign_in(page: gr.Blocks) -> None:
    """The buttons to sign in and out; without OAuth at hand they would not let the page start."""
    # Has Gradio answer the two addresses below. It shows nothing: its words are English for everybody, and it tells
    # by its own label which address to go to.
    gr.LoginButton(visible=False)
    enter = gr.Button(
        t("account.sign_in"), icon=get_icon_path("huggingface-logo.svg"), scale=0, min_width=200
    )
    leave = gr.Button(visible=False, scale=0, min_width=200)

    def who(profile: gr.OAuthProfile | None) -> tuple[Any, Any]:
        if profile is None:
            return gr.update(visible=True), gr.update(visible=False)
        label = t("account.sign_out", name=profile.username)
        return gr.update(visible=False), gr.update(value=label, visible=True)

    page.load(who, None, [enter, leave], **QUIET)
    for button, address in ((enter, "/login/huggingface"), (leave, "/logout")):
        button.click(None, None, None, js=_GO.replace("ADDRESS", address), **PRIVATE)


async def _busy(request: Request, error: Exception) -> Response:
    """Tell a browser in its language that the queue is full.

    For status 503 Gradio's page has a sentence of its own, in English for everybody; of another status it shows
    the detail. Gradio's clients, which ask for no language, read 503.
    """
    assert isinstance(error, HTTPException)
    asked = request.headers.get("accept-language")
    if not asked:
        return await http_exception_handler(request, error)
    with speaking(spoken(asked)):
        return JSONResponse({"detail": t("page.busy")}, HTTPStatus.TOO_MANY_REQUESTS)


def launch_settings(page: gr.Blocks, host: Host) -> dict[str, Any]:
    """What `launch` is to be given, whoever launches the page."""
    return {
        "theme": theme(),
        "css": CSS,
        "js": _TONGUE.replace("LANGUAGES", json.dumps(list(LANGUAGES))),
        "i18n": translated(page),
        # Its history writes every input of every call into the browser's storage, in the clear.
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": True,
        # Results to be downloaded, each under an unguessable name.
        "allowed_paths": [str(host.downloads)],
        "footer_links": ["api", "settings"],
        "app_kwargs": {"exception_handlers": {HTTPStatus.SERVICE_UNAVAILABLE: _busy}},
    }

"""The Chat tab: one message, answered by a merge and, if wanted, by one or two models beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from evaluation import EvaluationError, FetchedModel, fetch_model, load_fetched
from ui.chat.answers import (
    LONGEST_ANSWER,
    Message,
    Sampling,
    as_drawn,
    line_html,
    lines,
    plain,
    shown,
    streamed,
    trouble_card,
)
from ui.chat.tuning import Tuner, build_tuner
from ui.chat.votes import CHOICES, TAKE_HOME, Choice, kept_votes, last_answers, tally, with_vote
from ui.host import Host
from ui.hub.account import account
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import t
from ui.recipe.presets import family
from ui.server import gpu
from ui.server.in_memory_merges import MARK
from ui.server.merge_service import MergeService
from ui.server.work import Turns
from ui.widgets.events import LONG, NETWORK, PRIVATE, QUIET


@dataclass
class ChatTab:
    """What the page connects to the Merge tab."""

    models: tuple[gr.Dropdown, gr.Dropdown, gr.Dropdown]
    fields: list[Any]  # that `begin_anew` updates; the first is the conversation
    begin_anew: Callable[[str | None, str | None, str | None, gr.Request], tuple[Any, ...]]
    bring: Callable[..., None]  # the models' files, to this machine
    warm_up: Callable[..., None]  # and the models, to memory
    tuner: Tuner


def chat_tab(host: Host, search: HubSearch, service: MergeService) -> ChatTab:
    """Build the tab inside the page's Blocks."""
    in_memory, turns = service.in_memory, Turns()
    known = family(host.demo).models

    def model_field(label: str, info: str, value: str | None) -> gr.Dropdown:
        field = gr.Dropdown(
            list(known), value=value, label=label, info=info, allow_custom_value=True, min_width=280
        )
        search_as_you_type(field, search, host, known)
        return field

    def chatbot(name: str | None) -> gr.Chatbot:
        return gr.Chatbot(
            label=_label(name), height=420, placeholder=t("chat.placeholder"), buttons=["copy"],
            layout="bubble", elem_classes="alloy-talk",
        )  # fmt: skip

    with gr.Row():
        first = model_field(t("chat.model"), t("chat.info"), known[0])
        second = model_field(t("chat.other"), t("chat.other.info"), None)
        with gr.Column(visible=False, min_width=280) as more:
            third = model_field(t("chat.third"), t("chat.third.info"), None)
    with gr.Row(equal_height=True):
        with gr.Column(min_width=280):
            left, left_line = chatbot(known[0]), gr.HTML()
        with gr.Column(min_width=280, visible=False) as beside:
            right, right_line = chatbot(None), gr.HTML()
        with gr.Column(min_width=280, visible=False) as further:
            last, last_line = chatbot(None), gr.HTML()
    with gr.Row(visible=False, elem_classes="alloy-votes") as voting:
        voters = [gr.Button(t(f"vote.{choice}"), size="sm", min_width=90) for choice in CHOICES]
    counted = gr.HTML()
    taken = gr.Button(t("vote.export"), size="sm", min_width=120, visible=False)
    votes = gr.BrowserState([], storage_key="alloy-votes", secret=host.browser_key)
    prompt = gr.Textbox(
        label=t("chat.prompt"), placeholder=t("chat.prompt.placeholder"), lines=1, max_lines=6
    )
    with gr.Row():
        send = gr.Button(t("chat.send"), variant="primary", scale=2, min_width=90)
        stop = gr.Button(t("chat.stop"), min_width=90)
        clear = gr.Button(t("chat.clear"), min_width=90)
    tuner = build_tuner(service, turns)
    with gr.Accordion(t("chat.settings"), open=False):
        system = gr.Textbox(label=t("chat.system"), max_lines=4)
        with gr.Row():
            temperature = gr.Slider(
                0,
                2,
                0.7,
                step=0.05,
                label=t("chat.temperature"),
                info=t("chat.temperature.info"),
                min_width=200,
            )
            top_p = gr.Slider(
                0.05, 1, 0.9, step=0.05, label=t("chat.top_p"), info=t("chat.top_p.info"), min_width=200
            )
            length = gr.Slider(
                16, LONGEST_ANSWER, gpu.USUAL_ANSWER, step=8, label=t("chat.length"), min_width=200
            )
            seed = gr.Number(0, label=t("chat.seed"), info=t("chat.seed.info"), precision=0, min_width=120)

    def talk(
        message: str, one: str | None, other: str | None, another: str | None, left_talk: list[Message],
        right_talk: list[Message], last_talk: list[Message], lead: str, heat: float, share: float,
        longest: float, draw: float | None, oauth: gr.OAuthToken | None, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        page = str(request.session_hash)
        before = [as_drawn(left_talk), as_drawn(right_talk), as_drawn(last_talk)]
        names = _chosen(one, other, another)
        if not one or not one.strip() or not message or not message.strip():
            missing = t("chat.no_prompt" if one and one.strip() else "chat.no_model")
            yield message, *before, trouble_card(missing), "", ""
            return
        asked: Message = {"role": "user", "content": message}
        drawn = [[*said, asked] for said in before[: len(names)]]
        here = {name: in_memory.get(page, name) for name in names if name.startswith(MARK)}
        live = {name: model for name, model in here.items() if model}
        if len(live) < len(here):
            yield message, *before, trouble_card(f"{t('try.gone')} {t('try.gone.fix')}"), "", ""
            return
        stream: Any = None
        with turns.of(request) as turn:
            try:
                yield "", *drawn, *before[len(drawn) :], line_html(t("chat.loading")), "", ""
                token = account(host, oauth).for_hub
                models = [
                    live.get(name) or fetch_model(name, token=token, allow_folders=host.allow_folders)
                    for name in names
                ]
                sampling = Sampling.of_fields(lead, heat, share, longest, draw)
                stream = streamed(models, [plain(said) for said in drawn], sampling)
                for run, given in stream:
                    stopped = turn.stopped.is_set()
                    talks = [[*said, *shown(it.text)] for said, it in zip(drawn, given, strict=True)]
                    if turn.forgotten.is_set():
                        # Gradio sends the last piece once more when the answer ends, after the fields were emptied.
                        yield "", [], [], [], "", "", ""
                        break
                    yield "", *talks, *before[len(talks) :], *[*lines(run, given, stopped), "", ""][:3]
                    if stopped:
                        break
            except (gr.Error, EvaluationError) as error:
                # The message stays where it was, to be sent again.
                words = error.message if isinstance(error, gr.Error) else f"{t('chat.failed')}: {error}"
                yield message, *before, trouble_card(str(words)), "", ""
            finally:
                if stream:
                    stream.close()

    def begin_anew(
        one: str | None, other: str | None, another: str | None, request: gr.Request
    ) -> tuple[Any, ...]:
        turns.forget(request)
        return *emptied(_chosen(one, other, another)), *tuner.begin(one, str(request.session_hash))

    def make_ready(
        one: str | None, other: str | None, another: str | None, oauth: gr.OAuthToken | None
    ) -> None:
        """Fetch the models before the GPU is asked for: the visitor's pass to ZeroGPU comes with the browser's
        event and does not last, so that the next event asks for it."""
        if gpu.is_zero_gpu():
            bring(one, other, another, oauth)

    def bring(one: str | None, other: str | None, another: str | None, oauth: gr.OAuthToken | None) -> None:
        """Bring the models' files here, as far as they can be had; `talk` tells what cannot."""
        for _ in here(one, other, another, oauth):
            pass

    def warm_up(one: str | None, other: str | None, another: str | None, oauth: gr.OAuthToken | None) -> None:
        """Load the models while the visitor still writes; ZeroGPU loads them itself."""
        if not gpu.is_zero_gpu():
            for model in here(one, other, another, oauth):
                with suppress(EvaluationError):
                    load_fetched(model)

    def here(
        one: str | None, other: str | None, another: str | None, oauth: gr.OAuthToken | None
    ) -> Iterator[FetchedModel]:
        for name in _chosen(one, other, another):
            with suppress(EvaluationError):
                if not name.startswith(MARK):
                    token = account(host, oauth).for_hub
                    yield fetch_model(name, token=token, allow_folders=host.allow_folders)

    def voter(choice: Choice) -> Callable[..., Any]:
        def vote(
            stored: object,
            one: str | None,
            other: str | None,
            left_talk: list[Message],
            right_talk: list[Message],
        ) -> tuple[Any, Any]:
            found = last_answers(plain(left_talk), plain(right_talk))
            if found is None or not one or not other:
                return gr.skip(), line_html(t("vote.none"))
            models = one.strip(), other.strip()
            now = with_vote(kept_votes(stored), choice, models, *found)
            return now, tally(now, models)

        return vote

    answered = [left, right, last, left_line, right_line, last_line]
    fields = [*answered, beside, further, more, voting, *tuner.fields]
    models = [first, second, third]
    drawing = [system, temperature, top_p, length, seed]
    gr.on(
        [send.click, prompt.submit],
        make_ready,
        models,
        None,
        show_progress="hidden",
        **NETWORK,
    ).then(
        talk,
        [prompt, *models, left, right, last, *drawing],
        [prompt, *answered],
        concurrency_limit=2,
        show_progress_on=left,
        # Unlike the other events of this line: it shows the place in line to whoever waits for others' answers.
        **(LONG | {"show_progress": "minimal"}),
    )
    stop.click(turns.stop, None, None, **QUIET)

    for choice, button in zip(CHOICES, voters, strict=True):
        button.click(voter(choice), [votes, first, second, left, right], [votes, counted], **QUIET)
    # Also told when the page is loaded and the browser remembers votes.
    votes.change(lambda stored: gr.update(visible=bool(kept_votes(stored))), votes, taken, **QUIET)
    taken.click(None, votes, None, js=TAKE_HOME, **PRIVATE)

    clear.click(begin_anew, models, fields, **QUIET)
    # The answers in a conversation belong to the model that gave them: another model starts anew. (`change`
    # would also be told while Gradio draws the fields, one by one.)
    gr.on([field.input for field in models], begin_anew, models, fields, **QUIET)
    tuner.wire(left, left_line, drawing)
    return ChatTab((first, second, third), fields, begin_anew, bring, warm_up, tuner)


def emptied(names: Sequence[str]) -> tuple[Any, ...]:
    """Empty conversations with these models, each shown if it is there: updates of the first ten of `ChatTab.fields`.

    The field for a third model comes with the second one; votes are on two.
    """
    talks = [gr.update(value=[], label=_label(name)) for name in (*names, None, None, None)[:3]]
    seen = (
        gr.update(visible=visible)
        for visible in (len(names) > 1, len(names) > 2, len(names) > 1, len(names) == 2)
    )
    return *talks, "", "", "", *seen


def _chosen(one: str | None, other: str | None, another: str | None) -> list[str]:
    """The models that answer; the field of the third is hidden without a second."""
    names = [(name or "").strip() for name in (one, other, another if other and other.strip() else None)]
    return [name for name in names if name]


def _label(name: str | None) -> str:
    return t("chat.answers", name=name.strip()) if name and name.strip() else t("chat.answers.none")

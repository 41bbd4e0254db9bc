"""The Chat tab: one message, answered by a merge and, if wanted, by one or two models beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import gradio as gr

from evaluation import EvaluationError, FetchedModel, fetch_model
from ui.chat.answers import (
    Answer,
    Message,
    as_shown,
    line_html,
    lines,
    loaded,
    plain,
    shown,
    streamed,
    trouble_card,
    warned,
)
from ui.chat.blind import Blind
from ui.chat.examples import ChatExamples
from ui.chat.preferences import LETTERS, PreferenceButtons, last_answers
from ui.chat.sampling import SamplingFields
from ui.chat.tuning import Tuner
from ui.host import Host
from ui.hub.account import Account, account
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import error_words, t
from ui.recipe.presets import family
from ui.server import gpu
from ui.server.in_memory_merges import MARK, TriedMerge
from ui.server.merge_service import MergeService
from ui.server.model_process import MODELS
from ui.server.work import Turn, Turns
from ui.widgets.events import LONG, NETWORK, PRIVATE, QUIET, Given, Updates
from ui.widgets.html import html
from ui.widgets.stop_button import stop_button, stops_from, stops_until

HIDE = "() => ({__type__: 'update', visible: false})"
SEND = "() => document.querySelector('.alloy-send').click()"
# Brings the conversation above the composer, where it is hidden behind it.
SHOW_TALK = """() => {
  const visible = (choice) => [...document.querySelectorAll(choice)].find((it) => it.offsetParent);
  const talk = visible(".alloy-talk"), composer = visible(".alloy-composer");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (talk.getBoundingClientRect().bottom > composer.getBoundingClientRect().top)
    talk.scrollIntoView({block: "start", behavior: still ? "auto" : "smooth"});
}"""
SUGGESTED = (1, 2, 3)  # messages to begin with, by the end of their key


@dataclass(frozen=True)
class Side:
    """One of the models that answer side by side.

    Args:
        model: its name
        column: around its conversation
        talk: the conversation
        line: what is said below it: device, speed, warnings
    """

    model: gr.Dropdown
    column: gr.Column
    talk: gr.Chatbot
    line: gr.HTML


class ChatTab:
    """The tab, made inside the page's Blocks.

    Attributes:
        models: whose names the page may fill in; `bring` and `warm_up` want them as inputs
        conversation: of the first model
        examples: the visitor's messages and answers
        tuner: changes the numbers of a merge in memory
        outputs: what `open_with` updates
    """

    def __init__(self, host: Host, search: HubSearch, service: MergeService) -> None:
        self.host, self.service = host, service
        self.turns = Turns()
        known = family(host.demo).models
        with gr.Row():
            first = _model_field(host, search, "chat.model", "chat.info", known[0])
            second = _model_field(host, search, "chat.other", "chat.other.info")
            with gr.Column(visible=False, min_width=280) as self.third_model:
                third = _model_field(host, search, "chat.third", "chat.third.info")
        self.models = (first, second, third)
        self.blindly = gr.Checkbox(
            False, label=t("chat.blind"), info=t("chat.blind.info"), visible=False, container=False
        )
        self.blind = gr.State(None)
        self.tuner = Tuner(service, self.turns)
        with gr.Row(equal_height=True):
            self.sides = [_side(field, known[0] if field is first else None) for field in self.models]
        self.preferences = PreferenceButtons(host)
        with gr.Column(elem_classes="alloy-composer"):
            self.preferences.row.render()
            with gr.Row(elem_classes="alloy-suggested") as self.suggestions:
                self.suggested = [gr.Button(t(f"chat.suggested.{n}"), size="sm") for n in SUGGESTED]
            self.prompt = gr.Textbox(
                label=t("chat.prompt"), placeholder=t("chat.prompt.placeholder"), lines=1, max_lines=6
            )
            with gr.Row():
                self.send = gr.Button(
                    t("chat.send"), variant="primary", scale=2, min_width=90, elem_classes="alloy-send"
                )
                self.stop = stop_button(t("chat.stop"), min_width=90)
                self.clear = gr.Button(t("chat.clear"), min_width=90)
        self.tuner.answers.render()  # type: ignore[no-untyped-call]
        self.settings = SamplingFields()
        self.conversation = self.sides[0].talk
        self.examples = ChatExamples(self.preferences.stored, [side.talk for side in self.sides])
        self.outputs = [*self.models, *self._cleared(), *self.tuner.outputs]
        self.names_of = {*self.models, self.blind}
        self._wire()

    def _wire(self) -> None:
        models, talks = {*self.models}, [side.talk for side in self.sides]
        asked = [self.send.click, self.prompt.submit]
        stops_from(self.stop, asked)
        gr.on(asked, None, None, None, js=SHOW_TALK, **PRIVATE)
        ready = gr.on(asked, self._fetch, models, None, show_progress="hidden", **NETWORK)
        answered = ready.then(
            self._talk,
            {self.prompt, self.blindly, *self.names_of, *talks, *self.settings.inputs},
            [self.prompt, self.blind, self.tuner.sampled, *talks, *(side.line for side in self.sides)],
            concurrency_limit=2,
            show_progress_on=self.conversation,
            # Unlike the other long events, this one shows visitors who wait their place in line.
            **(LONG | {"show_progress": "minimal"}),
        )
        stops_until(self.stop, ready, answered)
        answered.then(self._offer_votes, {*models, *talks}, self.preferences.offered, **QUIET)
        for row in (self.preferences.row, self.suggestions):
            gr.on(asked, None, None, row, js=HIDE, **PRIVATE)
        answered.then(self._suggest, self.conversation, self.suggestions, **QUIET)
        for number, button in zip(SUGGESTED, self.suggested, strict=True):
            button.click(lambda n=number: t(f"chat.suggested.{n}"), None, self.prompt, **QUIET).then(
                None, None, None, js=SEND, **PRIVATE
            )
        self.stop.click(self.turns.stop, None, None, **QUIET)
        for best, button in [*enumerate(self.preferences.best), (None, self.preferences.tie)]:
            button.click(
                self._vote(best),
                {*self.names_of, *talks, self.preferences.stored},
                [
                    self.preferences.stored, self.preferences.tally, self.preferences.row, self.blind, *talks,
                    *(side.line for side in self.sides),
                ],
                **QUIET,
            )  # fmt: skip
        # A conversation belongs to the models that answered in it: another model starts a new one. (`change` would also
        # fire while Gradio draws the fields, one by one.)
        gr.on(
            [self.clear.click, self.blindly.input, *(field.input for field in self.models)],
            self._clear, {*models, self.blindly}, self.outputs, **QUIET,
        )  # fmt: skip
        self.tuner.wire(self.sides[0].talk, self.sides[0].line, self.settings, self.stop)

    def open_with(self, names: Sequence[str | None], request: gr.Request) -> Updates:
        """Updates of `outputs` for new conversations with up to three models; whatever is being answered ends."""
        filled = dict(zip_longest(self.models, names))
        return {**filled, **self._begin(_answering(names), request)}

    def bring(self, given: Given, oauth: gr.OAuthToken | None) -> None:
        """Bring the models' files here, as far as possible; `_talk` reports failures."""
        for _ in self._fetched(given, oauth):
            pass

    def warm_up(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> None:
        """Load the models while the visitor is still typing; ZeroGPU loads them itself."""
        if gpu.is_zero_gpu():
            return
        with self.turns.of(request) as turn:
            for model in self._fetched(given, oauth):
                with suppress(EvaluationError), closing(MODELS.stream(loaded, model)) as loading:
                    for _ in loading:
                        if turn.stopped.is_set() or turn.forgotten.is_set():
                            return

    def _fetch(self, given: Given, oauth: gr.OAuthToken | None) -> None:
        """Fetch the models before the GPU is asked for: the visitor's pass to ZeroGPU comes with the browser's event
        and expires soon, so that the next event asks for it."""
        if gpu.is_zero_gpu():
            self.bring(given, oauth)

    def _fetched(self, given: Given, oauth: gr.OAuthToken | None) -> Iterator[FetchedModel]:
        token = account(self.host, oauth).for_hub
        for name in self._names(given):
            with suppress(EvaluationError):
                if not name.startswith(MARK):
                    yield fetch_model(name, token=token, allow_folders=self.host.allow_folders)

    def _clear(self, given: Given, request: gr.Request) -> Updates:
        return self._begin(self._names(given), request, blindly=given[self.blindly])

    def _begin(self, names: Sequence[str], request: gr.Request, *, blindly: bool = False) -> Updates:
        """New conversations. Nothing of the first model is tuned while it may answer in any of them."""
        self.turns.forget(request)
        blindly = blindly and len(names) > 1
        name = names[0] if names and not blindly else None
        return {**self._cleared(names, blindly=blindly), **self.tuner.begin(name, str(request.session_hash))}

    def _cleared(self, names: Sequence[str] = (), *, blindly: bool = False) -> Updates:
        """Empty conversations with these models.

        The field for a third model is shown once there is a second; preferences wait for answers.
        """
        updates: Updates = {
            self.third_model: gr.update(visible=len(names) > 1),
            self.blindly: gr.update(visible=len(names) > 1, value=blindly),
            self.blind: None,
            self.preferences.row: gr.update(visible=False),
            self.suggestions: gr.update(visible=True),
        }
        labels = _labels(names, hidden=blindly)
        for place, (side, name) in enumerate(zip_longest(self.sides, names)):
            updates[side.talk] = gr.update(value=[], label=labels[place])
            updates[side.column] = gr.update(visible=place == 0 or name is not None)
            updates[side.line] = ""
        return updates

    def _offer_votes(self, given: Given) -> Updates:
        """The buttons of preferences, once all of several models have answered the same message."""
        count = len(self._names(given))
        answered = last_answers([plain(given[side.talk]) for side in self.sides[:count]]) is not None
        return self.preferences.offer(count if answered else 0)

    def _vote(self, best: int | None) -> Callable[[Given], Updates]:
        """What the button for one of the answers does; None is that for a tie."""

        def vote(given: Given) -> Updates:
            names, blind = self._seated(given)
            sides = self.sides[: len(names)]
            talks = [plain(given[side.talk]) for side in sides]
            updates = self.preferences.prefer(best, names, talks, given[self.preferences.stored])
            if blind is None or blind.revealed:
                return updates
            labels = zip(sides, _labels(names), strict=False)
            # The names would tell what to vote for now.
            hidden = {
                self.preferences.row: gr.update(visible=False),
                self.blind: replace(blind, revealed=True),
            }
            shown = {side.talk: gr.update(label=label) for side, label in labels}
            return {**updates, **hidden, **shown, **self._lines(blind.lines)}

        return vote

    def _seated(self, given: Given) -> tuple[list[str], Blind | None]:
        """The models by conversation, and the blind comparison that this is, if it is one."""
        names, blind = self._names(given), given[self.blind]
        if blind is None or len(blind.order) != len(names):
            return names, None
        return blind.names(names), blind

    def _suggest(self, conversation: Sequence[Message]) -> Any:
        """Messages to begin with are offered until there is one."""
        return gr.update(visible=not conversation)

    def _talk(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        with self.turns.of(request) as turn:
            try:
                yield from self._answered(given, account(self.host, oauth), turn, str(request.session_hash))
            except (gr.Error, EvaluationError) as error:
                words = (
                    error.message
                    if isinstance(error, gr.Error)
                    else f"{t('chat.failed')}: {error_words(error)}"
                )
                # The message stays in its field, to be sent again.
                before: Updates = {side.talk: as_shown(given[side.talk]) for side in self.sides}
                yield {self.prompt: given[self.prompt], **before, **self._lines([trouble_card(str(words))])}

    def _answered(self, given: Given, who: Account, turn: Turn, page: str) -> Iterator[Updates]:
        """The conversations while all models answer.

        Raises:
            gr.Error: a model or the message is missing, or no model can answer
            EvaluationError: a model cannot be fetched
        """
        (names, blind), message = self._seated(given), given[self.prompt] or ""
        if not (given[self.models[0]] or "").strip():
            raise gr.Error(t("chat.no_model"), print_exception=False)
        if not message.strip():
            raise gr.Error(t("chat.no_prompt"), print_exception=False)
        sides = self.sides[: len(names)]
        if given[self.blindly] and len(names) > 1 and not any(given[side.talk] for side in sides):
            blind = Blind.of(len(names))
            names = blind.names(self._names(given))
        asked: list[list[Message]] = [
            [*as_shown(given[side.talk]), {"role": "user", "content": message}] for side in sides
        ]
        models = [self._in_memory(name, page) for name in names]
        sampling = self.settings.sampling(given)
        loading = self._lines([line_html(t("chat.loading"))])
        yield {
            self.prompt: "", self.blind: blind, self.tuner.sampled: sampling, **_talks(sides, asked), **loading
        }  # fmt: skip
        fetched = [model or self._fetch_model(name, who) for name, model in zip(names, models, strict=True)]
        with closing(streamed(fetched, [plain(talk) for talk in asked], sampling)) as stream:
            for run, answers in stream:
                if turn.forgotten.is_set():
                    # Gradio sends the last piece again when the answer ends, after the fields were emptied.
                    yield {self.prompt: "", **{side.talk: [] for side in self.sides}, **self._lines([])}
                    return
                stopped = turn.stopped.is_set()
                talks = [[*talk, *shown(one.text)] for talk, one in zip(asked, answers, strict=True)]
                said = self._said(lines(run, answers, stopped), answers, blind)
                yield {self.prompt: "", **_talks(sides, talks), **said}
                if stopped:
                    return

    def _said(self, below: Sequence[str], answers: Sequence[Answer], blind: Blind | None) -> Updates:
        """Updates of the lines below the conversations; a blind comparison keeps them until the names are shown."""
        if blind is None or blind.revealed:
            return self._lines(below)
        hidden = [html(warned(one.warning), line_html(t("chat.blind.line"))) for one in answers]
        return {self.blind: replace(blind, lines=tuple(below)), **self._lines(hidden)}

    def _in_memory(self, name: str, page: str) -> TriedMerge | None:
        """The page's merge in memory of this name; None if the name is of a model on the Hub or of a folder.

        Raises:
            gr.Error: it is no longer there
        """
        if not name.startswith(MARK):
            return None
        model = self.service.in_memory.get(page, name)
        if model is None:
            raise gr.Error(f"{t('try.gone')} {t('try.gone.fix')}", print_exception=False)
        return model

    def _fetch_model(self, name: str, who: Account) -> FetchedModel:
        return fetch_model(name, token=who.for_hub, allow_folders=self.host.allow_folders)

    def _names(self, given: Given) -> list[str]:
        return _answering([given[field] for field in self.models])

    def _lines(self, said: Sequence[str]) -> Updates:
        """What is said below the conversations, nothing below the others."""
        return {side.line: said[place] if place < len(said) else "" for place, side in enumerate(self.sides)}


def _model_field(
    host: Host, search: HubSearch, label: str, info: str, value: str | None = None
) -> gr.Dropdown:
    known = family(host.demo).models
    field = gr.Dropdown(
        list(known), value=value, label=t(label), info=t(info), allow_custom_value=True, min_width=280
    )
    # Here, in the field's row: what the search adds counts towards the widths of the row's fields.
    search_as_you_type(field, search, host, known)
    return field


def _side(field: gr.Dropdown, name: str | None) -> Side:
    """A conversation; only the first model's is shown at once, the others when they are chosen."""
    with gr.Column(min_width=280, visible=name is not None) as column:
        talk = gr.Chatbot(
            label=_labels([name] if name else [])[0], height=420, placeholder=t("chat.placeholder"), buttons=["copy"],
            layout="bubble", elem_classes="alloy-talk",
        )  # fmt: skip
        line = gr.HTML()
    return Side(field, column, talk, line)


def _talks(sides: Sequence[Side], talks: Sequence[Sequence[Message]]) -> Updates:
    return {side.talk: talk for side, talk in zip(sides, talks, strict=True)}


def _answering(names: Sequence[str | None]) -> list[str]:
    """The models that answer, of up to three fields; the third field is hidden without a second model."""
    filled = [(name or "").strip() for name in names]
    return [name for name in (filled if filled[1:2] != [""] else filled[:1]) if name]


def _labels(names: Sequence[str], *, hidden: bool = False) -> list[str]:
    """Of the conversations: who answers there, or a letter alone in a blind comparison."""
    if hidden:
        return [t("chat.answers.hidden", letter=letter) for letter in LETTERS]
    if len(names) > 1:
        return [f"{letter}: {name}" for letter, name in zip_longest(LETTERS, names, fillvalue="")]
    name = names[0].strip() if names else ""
    return [t("chat.answers", name=name) if name else t("chat.answers.none")] * len(LETTERS)

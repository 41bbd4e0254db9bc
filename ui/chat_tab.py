"""The Chat tab: one message, answered by a merge and, if wanted, by another model beside it."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from evaluation import EvaluationError, FetchedModel, LanguageModel, Reply, fetch_model, load_fetched, reply
from evaluation.chat_check import faults
from ui import gpu
from ui.account import account
from ui.host import Host
from ui.hub_search import HubSearch, search_as_you_type
from ui.markup import text
from ui.presets import family
from ui.texts import t
from ui.trials import MARK, Trials
from ui.votes import CHOICES, Choice, as_lines, kept_votes, last_answers, tally, with_vote

LONGEST_ANSWER = 1024
Message = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One model's answer so far, a line about it, and in the end what is wrong with it, if anything."""

    text: str
    line: str
    warning: str = ""


@dataclass(frozen=True)
class _Turn:
    """An answer on its way: whether it shall end, and whether it shall leave nothing behind."""

    stopped: threading.Event = field(default_factory=threading.Event)
    forgotten: threading.Event = field(default_factory=threading.Event)


@dataclass
class ChatTab:
    """What the page connects to the Merge tab."""

    models: tuple[gr.Dropdown, gr.Dropdown]
    fields: list[Any]  # that `begin_anew` updates; the first is the conversation
    begin_anew: Callable[[str | None, str | None, gr.Request], tuple[Any, ...]]


def answers(
    models: Sequence[FetchedModel | LanguageModel],
    talks: Sequence[Sequence[Message]],
    system: str,
    temperature: float,
    length: int,
    seed: int,
    device: str,
) -> Iterator[list[Answer]]:
    """Answer the last message of each model's conversation, all models at the same time.

    Args:
        models: that are on this machine, or live in this process
        device: for those that are to be loaded

    Raises:
        EvaluationError: a model cannot be loaded or cannot answer.
    """
    replies: list[Reply] = []
    try:
        loaded: list[LanguageModel] = []
        for model in models:
            yield [Answer("", t("chat.loading"))] * len(models)
            loaded.append(load_fetched(model, device) if isinstance(model, FetchedModel) else model)
        lead = [{"role": "system", "content": system}] if system.strip() else []
        for live, talk in zip(loaded, talks, strict=True):
            replies.append(
                reply(live, [*lead, *talk], max_new_tokens=length, temperature=temperature, seed=seed)
            )
        yield [Answer("", t("chat.thinking"))] * len(models)
        for _ in itertools.zip_longest(*replies):
            yield [Answer(r.text, _line(m, r)) for m, r in zip(loaded, replies, strict=True)]
        yield [
            Answer(r.text or t("chat.empty_answer"), _line(m, r), _warning(talk[-1]["content"], r))
            for m, r, talk in zip(loaded, replies, talks, strict=True)
        ]
    finally:
        for answer in replies:
            answer.close()


def chat_tab(host: Host, search: HubSearch, trials: Trials) -> ChatTab:
    """Build the tab inside the page's Blocks."""
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
            layout="bubble",
        )  # fmt: skip

    with gr.Row():
        first = model_field(t("chat.model"), t("chat.info"), known[0])
        second = model_field(t("chat.other"), t("chat.other.info"), None)
    with gr.Row(equal_height=True):
        with gr.Column(min_width=320):
            left, left_line = chatbot(known[0]), gr.HTML()
        with gr.Column(min_width=320, visible=False) as beside:
            right, right_line = chatbot(None), gr.HTML()
    with gr.Row(visible=False) as voting:
        voters = [gr.Button(t(f"vote.{choice}"), size="sm", min_width=120) for choice in CHOICES]
    counted = gr.HTML()
    taken = gr.DownloadButton(t("vote.export"), size="sm", min_width=120, visible=False)
    votes = gr.BrowserState([], storage_key="alloy-votes", secret=host.browser_key)
    prompt = gr.Textbox(
        label=t("chat.prompt"), placeholder=t("chat.prompt.placeholder"), lines=1, max_lines=6
    )
    with gr.Row():
        send = gr.Button(t("chat.send"), variant="primary", scale=2, min_width=90)
        stop = gr.Button(t("chat.stop"), min_width=90)
        clear = gr.Button(t("chat.clear"), min_width=90)
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
            length = gr.Slider(
                16, LONGEST_ANSWER, gpu.USUAL_ANSWER, step=8, label=t("chat.length"), min_width=200
            )
            seed = gr.Number(0, label=t("chat.seed"), info=t("chat.seed.info"), precision=0, min_width=120)

    # By page, while it is being answered. Gradio's own `cancels` answers 500 when it comes between two pieces
    # of an answer, and then marks the fields as failed.
    turns: dict[str, _Turn] = {}

    def talk(
        message: str, one: str | None, other: str | None, left_talk: list[Message], right_talk: list[Message],
        lead: str, heat: float, longest: float, draw: float, oauth: gr.OAuthToken | None, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        before = [plain(left_talk), plain(right_talk)]
        names = [name.strip() for name in (one, other) if name and name.strip()]
        if not one or not one.strip() or not message or not message.strip():
            missing = t("chat.no_prompt" if one and one.strip() else "chat.no_model")
            yield message, *before, _trouble(missing), ""
            return
        talks = [[*said, {"role": "user", "content": message}] for said in before[: len(names)]]
        here = {name: trials.get(str(request.session_hash), name) for name in names if name.startswith(MARK)}
        live = {name: model for name, model in here.items() if model}
        if len(live) < len(here):
            yield message, *before, _trouble(f"{t('try.gone')} {t('try.gone.fix')}"), ""
            return
        turn = turns[str(request.session_hash)] = _Turn()
        stream: Any = None
        try:
            yield "", *talks, *before[len(talks) :], _line_html(t("chat.loading")), ""
            token = account(host, oauth).for_hub
            models = [
                live.get(name) or fetch_model(name, token=token, allow_folders=host.allow_folders)
                for name in names
            ]
            stream = streamed(
                models, talks, lead or "", heat, min(int(longest), LONGEST_ANSWER), int(draw or 0)
            )
            for run, given in stream:
                shown = [
                    [*said, {"role": "assistant", "content": answer.text}]
                    for said, answer in zip(talks, given, strict=True)
                ]
                ends = [run.line] * bool(run.line)
                if stopped := turn.stopped.is_set():
                    ends.append(t("chat.stopped"))
                warnings = [""] * len(given) if stopped else [_warned(answer.warning) for answer in given]
                lines = [
                    warning + _line_html(" · ".join([answer.line, *ends]))
                    for warning, answer in zip(warnings, given, strict=True)
                ]
                if turn.forgotten.is_set():
                    # Gradio sends the last piece once more when the answer ends, after the fields were emptied.
                    yield "", [], [], "", ""
                    break
                yield "", *shown, *before[len(shown) :], *[*lines, ""][:2]
                if stopped:
                    break
        except (gr.Error, EvaluationError) as error:
            # The message stays where it was, to be sent again.
            yield message, *before, _trouble(str(getattr(error, "message", error))), ""
        finally:
            turns.pop(str(request.session_hash), None)
            if stream:
                stream.close()

    def halt(request: gr.Request) -> None:
        if turn := turns.get(str(request.session_hash)):
            turn.stopped.set()

    def begin_anew(one: str | None, other: str | None, request: gr.Request) -> tuple[Any, ...]:
        if turn := turns.get(str(request.session_hash)):
            turn.forgotten.set()
        return emptied(one, other)

    def make_ready(one: str | None, other: str | None, oauth: gr.OAuthToken | None) -> None:
        """Fetch the models before the GPU is asked for: the visitor's pass to ZeroGPU comes with the browser's
        event and does not last, so that the next event asks for it."""
        if not gpu.is_zero_gpu():
            return
        token = account(host, oauth).for_hub
        with suppress(EvaluationError):  # `talk` will tell
            for name in filter(None, (one, other)):
                if not name.startswith(MARK):
                    fetch_model(name.strip(), token=token, allow_folders=host.allow_folders)

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
                return gr.skip(), _line_html(t("vote.none"))
            models = one.strip(), other.strip()
            now = with_vote(kept_votes(stored), choice, models, *found)
            return now, tally(now, models)

        return vote

    def export(stored: object) -> Any:
        if not kept_votes(stored):
            return gr.skip()
        path = Path(tempfile.mkdtemp(prefix="alloy-votes-")) / "votes.jsonl"
        path.write_text(as_lines(kept_votes(stored)), "utf-8")
        return gr.update(value=str(path), visible=True)

    fields = [left, right, left_line, right_line, beside, voting]
    gr.on(
        [send.click, prompt.submit],
        make_ready,
        [first, second],
        None,
        concurrency_limit=4,
        show_progress="hidden",
        api_visibility="private",
    ).then(
        talk,
        [prompt, first, second, left, right, system, temperature, length, seed],
        [prompt, left, right, left_line, right_line],
        concurrency_id="model",
        concurrency_limit=2,
        show_progress="hidden",
        trigger_mode="once",
        api_visibility="private",
    )
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    stop.click(halt, None, None, **quiet)

    for choice, button in zip(CHOICES, voters, strict=True):
        button.click(voter(choice), [votes, first, second, left, right], [votes, counted], **quiet)
    # Also told when the page is loaded and the browser remembers votes.
    votes.change(export, votes, taken, **quiet)

    clear.click(begin_anew, [first, second], fields, **quiet)
    # The answers in a conversation belong to the model that gave them: another model starts anew. (`change`
    # would also be told while Gradio draws the fields, one by one.)
    gr.on([first.input, second.input], begin_anew, [first, second], fields, **quiet)
    return ChatTab((first, second), fields, begin_anew)


def streamed(
    models: Sequence[FetchedModel | LanguageModel],
    talks: Sequence[Sequence[Message]],
    system: str,
    temperature: float,
    length: int,
    seed: int,
) -> Iterator[tuple[gpu.Run, list[Answer]]]:
    """`answers` where they are to be made: on a GPU where there is one, or in this process where models live here.

    Raises:
        gr.Error: a model cannot answer; its text is fit to be shown.
    """
    asked = (models, talks, system, temperature, length, seed)
    fetched = [model for model in models if isinstance(model, FetchedModel)]
    if len(fetched) == len(models):
        seconds = gpu.seconds_to_answer([model.bytes for model in fetched], length)
        yield from gpu.on_gpu(seconds, answers, *asked)
    else:
        for given in gpu.told_in_words(answers, *asked, "cpu"):
            yield gpu.Run(), given


def emptied(one: str | None, other: str | None) -> tuple[Any, ...]:
    """Updates for `ChatTab.fields`: empty conversations with these models, the second beside if there is one."""
    both = bool(other and other.strip())
    left, right = (gr.update(value=[], label=_label(name)) for name in (one, other))
    return left, right, "", "", gr.update(visible=both), gr.update(visible=both)


def plain(conversation: Sequence[Message]) -> list[Message]:
    """A conversation as models take it; Gradio hands each message over as a list of parts."""
    messages = []
    for message in conversation:
        content = message["content"]
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        messages.append({"role": message["role"], "content": str(content)})
    return messages


def _label(name: str | None) -> str:
    return t("chat.answers", name=name.strip()) if name and name.strip() else t("chat.answers.none")


def _line(model: LanguageModel, answer: Reply) -> str:
    """Where and how fast the model runs, and whatever a reader should know of this answer."""
    parts = [f"{model.device}, {model.dtype}"]
    if answer.tokens_per_second:
        parts.append(t("chat.speed", tokens=answer.new_tokens, rate=answer.tokens_per_second))
    if not model.has_chat_template:
        parts.append(t("chat.no_template"))
    if answer.finish == "length":
        parts.append(t("chat.length.reached"))
    return " · ".join(parts)


def _warning(prompt: str, answer: Reply) -> str:
    """What a broken merge shows first, by the plain rules of `evaluation.chat_check`."""
    found = faults(prompt, answer.text, cut=False)
    keys = {"empty": "chat.warning.empty", "repeated": "chat.warning.repeated"}
    return " ".join(t(key) for fault, key in keys.items() if fault in found)


def _warned(warning: str) -> str:
    return f'<p class="alloy-trouble" role="alert">{text(warning)}</p>' if warning else ""


def _trouble(line: str) -> str:
    return f'<div class="alloy-card alloy-bad" role="alert"><p>{text(line)}</p></div>'


def _line_html(line: str) -> str:
    return f'<div class="alloy-method">{text(line)}</div>'

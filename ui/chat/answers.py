"""How models answer, several at the same time, and a line on each answer: device, speed, and what is wrong with it."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from markupsafe import Markup

from evaluation import EvaluationError, FetchedModel, Reply, reply
from evaluation.answering_model import AnsweringModel
from evaluation.chat import chat_prompt
from evaluation.faults import faults
from evaluation.runtime import Runtime, load_to_answer
from merging.gguf_conversion import write_gguf
from ui.chat.sampling import Sampling
from ui.languages.translate import error_words, t
from ui.server import gpu
from ui.server.in_memory_merges import TriedMerge, model_of
from ui.server.work import watched
from ui.widgets.html import alert, html, tag

Message = dict[str, Any]
# Seconds between two updates of an answer on the page. More of them keep a browser on a busy machine from reacting to
# Stop.
SECONDS_BETWEEN_UPDATES = 0.3
_TAGS = "think|thinking|thought|reasoning"
_REASONING = re.compile(
    rf"\s*<(?P<tag>{_TAGS})>(?P<reasoning>.*?)(?:(?P<end></(?P=tag)>)(?P<rest>.*)|\Z)", re.DOTALL
)
_OPENED = re.compile(rf"<(?:{_TAGS})>\s*\Z")


@dataclass(frozen=True)
class Answer:
    """One model's answer so far, a line about it, and in the end what is wrong with it, if anything."""

    text: str
    line: str
    warning: str = ""


def answers(
    models: Sequence[FetchedModel | TriedMerge],
    talks: Sequence[Sequence[Message]],
    sampling: Sampling,
    device: str,
) -> Iterator[list[Answer]]:
    """Answer the last message of each model's conversation, all models at the same time.

    When one of several models fails while it answers, its error takes the place of its answer, and the others continue.

    Args:
        models: on this machine, or merges in memory
        talks: a conversation for each model
        sampling: how to sample
        device: for models that have yet to be loaded

    Raises:
        EvaluationError: a model cannot be loaded or cannot answer.
    """
    speakers: list[_Speaker] = []
    try:
        loaded: list[AnsweringModel] = []
        for model in models:
            with closing(_loading(model, device, sampling.runtime)) as loading:
                while (found := next(loading)) is None:
                    yield [Answer("", t("chat.loading"))] * len(models)
            loaded.append(found)
        speakers += [_Speaker(model, talk, sampling) for model, talk in zip(loaded, talks, strict=True)]
        yield [Answer("", t("chat.thinking"))] * len(models)
        updated = -math.inf
        while sum(speaker.continues() for speaker in speakers):
            if monotonic() - updated >= SECONDS_BETWEEN_UPDATES:
                updated = monotonic()
                yield [speaker.answer() for speaker in speakers]
        if all(speaker.fault for speaker in speakers):
            faults = (problem for speaker in speakers if speaker.fault for problem in speaker.fault.problems)
            raise EvaluationError(dict.fromkeys(faults))
        yield [speaker.answer(ended=True) for speaker in speakers]
    finally:
        for speaker in speakers:
            speaker.reply.close()


def loaded(model: FetchedModel) -> Iterator[None]:
    """Load a model, so that whoever asks it next does not wait; yields now and then. Closing it stops the work."""
    with closing(_loading(model)) as loading:
        while next(loading) is None:
            yield


def _loading(
    model: FetchedModel | TriedMerge, device: str = "auto", runtime: Runtime = "auto"
) -> Generator[AnsweringModel | None]:
    """Load a model; yields None now and then, and in the end the model. Closing it stops the work.

    Raises:
        EvaluationError: it cannot be loaded, or the merge is no longer there.
    """

    def load(_: object, cancel: threading.Event) -> AnsweringModel:
        if isinstance(model, FetchedModel):
            write = partial(write_gguf, cancel=cancel)
            return load_to_answer(model, device, runtime=runtime, write_gguf=write)
        return model_of(model, runtime, cancel)

    return watched(load)


class _Speaker:
    """One of the models that answer together."""

    def __init__(self, model: AnsweringModel, talk: Sequence[Message], sampling: Sampling) -> None:
        system = [{"role": "system", "content": sampling.system}] if sampling.system.strip() else []
        self.model = model
        self.prompt = str(talk[-1]["content"])
        self.fault: EvaluationError | None = None
        self.reply = reply(
            model,
            [*system, *talk],
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )
        self._opening = _opening(model)

    def continues(self) -> bool:
        """Wait for the next piece of the answer. Whether there was one."""
        try:
            return not self.fault and next(self.reply, None) is not None
        except EvaluationError as error:
            self.fault = error
            return False

    def answer(self, ended: bool = False) -> Answer:
        line = _line(self.model, self.reply)
        if self.fault:
            return Answer(self.reply.text, line, error_words(self.fault) if ended else "")
        said = self._opening + self.reply.text
        if not ended:
            return Answer(said, line)
        return Answer(said or t("chat.empty_answer"), line, garbage(self.prompt, said))


def _opening(model: AnsweringModel) -> str:
    """The tag with which the model's template opens every answer's reasoning; empty if it opens none."""
    if not model.has_chat_template:
        return ""
    question = [{"role": "user", "content": "?"}]
    with suppress(EvaluationError):  # `reply` has reported it already
        if opened := _OPENED.search(chat_prompt(model, question)):
            return opened[0].strip()
    return ""


def reasoning_of(answer: str) -> tuple[str | None, str, bool]:
    """An answer's reasoning (None without any), the rest, and whether the reasoning has ended."""
    match = _REASONING.match(answer)
    if match is None:
        return None, answer, True
    return match["reasoning"].strip(), (match["rest"] or "").lstrip(), bool(match["end"])


def shown(answer: str) -> list[Message]:
    """An answer as messages of the chat: its reasoning folded, then what it says."""
    reasoning, rest, ended = reasoning_of(answer)
    messages: list[Message] = []
    if reasoning is not None:
        folded = {"title": t("chat.reasoning"), "status": "done" if ended else "pending"}
        messages.append({"role": "assistant", "content": reasoning, "metadata": folded})
    if rest or reasoning is None:
        messages.append({"role": "assistant", "content": rest})
    return messages


def streamed(
    models: Sequence[FetchedModel | TriedMerge],
    talks: Sequence[Sequence[Message]],
    sampling: Sampling,
) -> Generator[tuple[gpu.GpuRun, list[Answer]]]:
    """`answers`, on a GPU where there is one, or where the merges in memory are.

    Raises:
        gr.Error: a model cannot answer; the text is for visitors.
    """
    asked = (models, talks, sampling)
    fetched = [model for model in models if isinstance(model, FetchedModel)]
    if len(fetched) == len(models):
        seconds = gpu.seconds_to_answer([model.bytes for model in fetched], sampling.max_new_tokens)
        yield from gpu.on_gpu(seconds, answers, *asked)
    else:
        for given in gpu.among_models(answers, *asked, "cpu"):
            yield gpu.GpuRun(), given


def as_shown(conversation: Sequence[Message]) -> list[Message]:
    """A conversation as the page shows it, from what Gradio gives handlers: each message as a list of parts."""
    messages: list[Message] = []
    for message in conversation:
        content = message["content"]
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        drawn: Message = {"role": message["role"], "content": str(content)}
        if title := (message.get("metadata") or {}).get("title"):
            drawn["metadata"] = {"title": title, "status": "done"}
        messages.append(drawn)
    return messages


def plain(conversation: Sequence[Message]) -> list[Message]:
    """A conversation as models get it: without reasoning, which templates drop from earlier turns too."""
    messages: list[Message] = []
    for message in as_shown(conversation):
        content = "" if "metadata" in message else message["content"]
        if messages and message["role"] == "assistant" == messages[-1]["role"]:
            messages[-1]["content"] += content
        else:
            messages.append({"role": message["role"], "content": content})
    return messages


def _line(model: AnsweringModel, answer: Reply) -> str:
    """Where and how fast the model runs, and what a reader should know about this answer."""
    parts = [f"{model.device}, {model.runs_as}"]
    if answer.tokens_per_second:
        parts.append(t("chat.speed", tokens=answer.new_tokens, rate=answer.tokens_per_second))
    if not model.has_chat_template:
        parts.append(t("chat.no_template"))
    if answer.finish == "length":
        parts.append(t("chat.length.reached"))
    return " · ".join(parts)


def garbage(prompt: str, answer: str) -> str:
    """What is plainly wrong with an answer, by the rules of `evaluation.faults`; empty if nothing."""
    reasoning, rest, ended = reasoning_of(answer)
    found = faults(prompt, rest if ended else reasoning or "", cut=False)
    keys = {"empty": "chat.warning.empty", "repeated": "chat.warning.repeated"}
    return " ".join(t(key) for fault, key in keys.items() if fault in found)


def lines(run: gpu.GpuRun, given: Sequence[Answer], stopped: bool) -> list[Markup]:
    """What is below each answer."""
    ends = [*[run.line] * bool(run.line), *[t("chat.stopped")] * stopped]
    return [
        html(None if stopped else warned(answer.warning), line_html(" · ".join([answer.line, *ends])))
        for answer in given
    ]


def warned(warning: str) -> Markup:
    return alert(warning) if warning else Markup("")


def trouble_card(line: str) -> Markup:
    return tag.div(tag.p(line), class_="alloy-card alloy-bad", role="alert")


def line_html(line: str) -> Markup:
    return tag.div(line, class_="alloy-method")

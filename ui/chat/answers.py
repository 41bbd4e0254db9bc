"""How models answer, several at the same time, and what is said of each answer: where, how fast, and any fault."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from markupsafe import Markup

from evaluation import EvaluationError, FetchedModel, LanguageModel, Reply, load_fetched, reply
from evaluation.chat_check import faults
from ui.languages.translate import t
from ui.server import gpu
from ui.widgets.html import alert, html, tag

LONGEST_ANSWER = 1024
Message = dict[str, Any]
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


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn, the same for all models.

    Args:
        system: the system prompt; empty for none
        temperature: 0 takes the likeliest token each time
        top_p: draw from the likeliest tokens that make up this share
        length: where an answer is cut, in tokens
        seed: the same seed gives the same answer
    """

    system: str = ""
    temperature: float = 0.7
    top_p: float = 0.9
    length: int = gpu.USUAL_ANSWER
    seed: int = 0

    @classmethod
    def of_fields(
        cls, system: str | None, temperature: float, top_p: float, length: float, seed: float | None
    ) -> Sampling:
        """From what the fields of a page say."""
        return cls(system or "", temperature, top_p, min(int(length), LONGEST_ANSWER), int(seed or 0))


def answers(
    models: Sequence[FetchedModel | LanguageModel],
    talks: Sequence[Sequence[Message]],
    sampling: Sampling,
    device: str,
) -> Iterator[list[Answer]]:
    """Answer the last message of each model's conversation, all models at the same time.

    A model that fails while it answers beside another one says so in its place, and the other goes on.

    Args:
        models: that are on this machine, or live in this process
        device: for those that are to be loaded

    Raises:
        EvaluationError: a model cannot be loaded or cannot answer.
    """
    voices: list[_Voice] = []
    try:
        loaded: list[LanguageModel] = []
        for model in models:
            yield [Answer("", t("chat.loading"))] * len(models)
            loaded.append(load_fetched(model, device) if isinstance(model, FetchedModel) else model)
        voices += [_Voice(live, talk, sampling) for live, talk in zip(loaded, talks, strict=True)]
        yield [Answer("", t("chat.thinking"))] * len(models)
        while sum(voice.goes_on() for voice in voices):
            yield [voice.answer() for voice in voices]
        if all(voice.fault for voice in voices):
            raise EvaluationError(" ".join(dict.fromkeys(voice.fault for voice in voices)))
        yield [voice.answer(ended=True) for voice in voices]
    finally:
        for voice in voices:
            voice.reply.close()


class _Voice:
    """One of the models that answer together."""

    def __init__(self, model: LanguageModel, talk: Sequence[Message], sampling: Sampling) -> None:
        lead = [{"role": "system", "content": sampling.system}] if sampling.system.strip() else []
        self.model = model
        self.prompt = str(talk[-1]["content"])
        self.fault = ""
        self.reply = reply(
            model,
            [*lead, *talk],
            max_new_tokens=sampling.length,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )
        self._opening = _opening(model)

    def goes_on(self) -> bool:
        """Wait for the next piece of the answer; whether there was one."""
        try:
            return not self.fault and next(self.reply, None) is not None
        except EvaluationError as error:
            self.fault = str(error)
            return False

    def answer(self, ended: bool = False) -> Answer:
        line = _line(self.model, self.reply)
        if self.fault:
            return Answer(self.reply.text, line, self.fault if ended else "")
        said = self._opening + self.reply.text
        if not ended:
            return Answer(said, line)
        return Answer(said or t("chat.empty_answer"), line, garbage(self.prompt, said))


def _opening(model: LanguageModel) -> str:
    """The tag with which the model's template opens every answer's reasoning; empty if it opens none."""
    if not model.has_chat_template:
        return ""
    question = [{"role": "user", "content": "?"}]
    with suppress(TemplateError, TypeError, ValueError):  # `reply` has told already
        prompt = model.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        if opened := _OPENED.search(prompt):
            return opened[0].strip()
    return ""


def reasoning_of(answer: str) -> tuple[str | None, str, bool]:
    """An answer's reasoning (None without any), the rest, and whether the reasoning has come to its end."""
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
    models: Sequence[FetchedModel | LanguageModel],
    talks: Sequence[Sequence[Message]],
    sampling: Sampling,
) -> Generator[tuple[gpu.GpuRun, list[Answer]]]:
    """`answers` where they are to be made: on a GPU where there is one, or in this process where models live here.

    Raises:
        gr.Error: a model cannot answer; its text is fit to be shown.
    """
    asked = (models, talks, sampling)
    fetched = [model for model in models if isinstance(model, FetchedModel)]
    if len(fetched) == len(models):
        seconds = gpu.seconds_to_answer([model.bytes for model in fetched], sampling.length)
        yield from gpu.on_gpu(seconds, answers, *asked)
    else:
        for given in gpu.told_in_words(answers, *asked, "cpu"):
            yield gpu.GpuRun(), given


def as_drawn(conversation: Sequence[Message]) -> list[Message]:
    """A conversation as the page shows it; Gradio hands each message over as a list of parts."""
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
    """A conversation as models take it: without the reasoning, which templates leave out of earlier turns too."""
    messages: list[Message] = []
    for message in as_drawn(conversation):
        content = "" if "metadata" in message else message["content"]
        if messages and message["role"] == "assistant" == messages[-1]["role"]:
            messages[-1]["content"] += content
        else:
            messages.append({"role": message["role"], "content": content})
    return messages


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


def garbage(prompt: str, answer: str) -> str:
    """What is wrong with an answer at first sight, by the plain rules of `evaluation.chat_check`; empty if nothing."""
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

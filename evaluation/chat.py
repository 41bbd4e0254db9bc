"""Conversations with a model, streamed as text."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from checkpoints.chat_template import Ending, TemplateError, render
from checkpoints.problems import Problem
from evaluation.error import EvaluationError, memory_named
from evaluation.model import LanguageModel

_ROLES = ("system", "user", "assistant")
# How the user's next line begins in the script for a model without a chat template, which would go on to write it.
_NEXT_LINE = "\nUser:"


def reply(
    model: LanguageModel,
    messages: Sequence[Mapping[str, str]],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.7,
    top_p: float = 0.9,
    seed: int = 0,
    ends: bool = True,
    stop: threading.Event | None = None,
) -> Reply:
    """Let a model answer the last message of a conversation.

        for piece in reply(model, [{"role": "user", "content": "What is the capital of Italy?"}]):
            print(piece, end="", flush=True)

    The same seed gives the same answer on the same device, whatever else runs at the time. Of the model's
    generation config only the tokens that end an answer count.

    Args:
        model: the model.
        messages: the conversation; each has a "role" (system, user or assistant) and a "content".
        max_new_tokens: the longest answer, in tokens.
        temperature: 0 takes the likeliest token each time; 1 draws from the model's own distribution.
        top_p: draw from the likeliest tokens that make up this share.
        seed: of the random draws.
        ends: whether the model may end its answer; if not, it has max_new_tokens.
        stop: when set, the answer ends within a token.

    Raises:
        EvaluationError: the conversation or a setting cannot be used; while iterating, generation failed.
    """
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        raise EvaluationError(Problem("generation-settings", asked))
    tokens = _prompt_tokens(model, messages)
    room = model.context - len(tokens)
    if room < 1:
        values = {"model": model.name, "tokens": len(tokens), "context": model.context}
        raise EvaluationError(Problem("conversation-too-long", values))
    draw = _Draw(temperature, top_p, seed)
    return Reply(model, tokens, min(max_new_tokens, room), draw, ends, stop or threading.Event())


class Reply(Iterator[str]):
    """An answer as it is written: iterate over it for pieces of text. `reply` makes one.

    The model runs in a thread of its own from the first piece on, until the answer ends, `stop` is set, or this
    object is closed or dropped. An error in that thread is raised by the iteration.

    Attributes:
        text: the answer so far.
        prompt_tokens: tokens of the conversation as the model read it.
        new_tokens: tokens written so far.
        seconds: from the first request for a piece to the newest token.
        seconds_to_first_token: of these, until the first token.
        finish: "" while it runs, then "end" (the model ended its answer), "length" (max_new_tokens or the
            model's context was reached) or "stopped".
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Sequence[int],
        max_new_tokens: int,
        draw: _Draw,
        ends: bool,
        stop: threading.Event,
    ) -> None:
        self._closed = threading.Event()
        self.text = ""
        self.prompt_tokens = len(tokens)
        self.new_tokens = 0
        self.seconds = 0.0
        self.seconds_to_first_token = 0.0
        self.finish = ""
        self._started: float | None = None
        self._ends = set(model.network.generation_config.eos_token_id or []) if ends else set()
        self._stop = stop
        self._written = _Decoder(model.tokenizer)
        self._script = _ScriptEnd() if ends and not model.has_chat_template else None
        self._inbox: SimpleQueue[_Token | BaseException | None] = SimpleQueue()
        # The thread knows the queue and the events but not this object, which can so be dropped while it
        # runs.
        self._thread = threading.Thread(
            target=_generate,
            args=(model, tokens, max_new_tokens, draw, ends, (stop, self._closed), self._inbox),
            name="reply",
            daemon=True,
        )
        _THREADS[self._thread] = self._closed

    @property
    def tokens_per_second(self) -> float:
        """Speed of writing, after the first token; 0.0 before there is a second."""
        writing = self.seconds - self.seconds_to_first_token
        return (self.new_tokens - 1) / writing if writing > 0 else 0.0

    def __next__(self) -> str:
        while not self.finish:
            piece = self._next_piece()
            if piece:
                self.text += piece
                return piece
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the answer here, and wait until the model has stopped."""
        self._closed.set()
        self.finish = self.finish or "stopped"
        if self._started is not None:
            self._thread.join()

    def __del__(self) -> None:
        self._closed.set()

    def _next_piece(self) -> str:
        if self._started is None:
            self._started = time.perf_counter()
            self._thread.start()
        arrived = self._inbox.get()
        if isinstance(arrived, BaseException):
            self.close()
            raise arrived
        if arrived is None:
            self.finish = "stopped" if self._stop.is_set() else "length"
            return self._shown(self._written.rest(), last=True)
        self.new_tokens += 1
        self.seconds = arrived.time - self._started
        if self.new_tokens == 1:
            self.seconds_to_first_token = self.seconds
        if arrived.id in self._ends:
            self.finish = "end"
            return self._shown(self._written.rest(), last=True)
        return self._shown(self._written.add(arrived.id), last=False)

    def _shown(self, text: str, *, last: bool) -> str:
        if self._script is None:
            return text
        text = self._script.add(text, last=last)
        if self._script.ended:
            self._closed.set()
            self.finish = "end"
        return text


# Every thread that writes an answer, with the event that ends it.
_THREADS: weakref.WeakKeyDictionary[threading.Thread, threading.Event] = weakref.WeakKeyDictionary()


@atexit.register
def _end_all() -> None:
    """End what is still being written when the process ends: torch aborts in a thread that is torn down."""
    for thread, closed in list(_THREADS.items()):
        if thread.is_alive():
            closed.set()
            thread.join()


class _Token:
    """A token that was written, and when."""

    def __init__(self, token: int) -> None:
        self.id = token
        self.time = time.perf_counter()


class _Decoder:
    """Text from tokens that come one at a time; a piece never ends inside a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Tokens before `_given` have been returned as text. Those from `_from` on are decoded together with the
        # new ones, since the text of a token (a leading space, a part of a character) depends on those before it.
        self._from = 0
        self._given = 0

    def add(self, token: int) -> str:
        self._tokens.append(token)
        text = self._new_text()
        if not text or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._from, self._given = self._given, len(self._tokens)
        return text

    def rest(self) -> str:
        """What was held back, without a character that was cut in the middle."""
        return self._new_text().rstrip("\N{REPLACEMENT CHARACTER}")

    def _new_text(self) -> str:
        given = self._decode(self._tokens[self._from : self._given])
        return self._decode(self._tokens[self._from :])[len(given) :]

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


class _ScriptEnd:
    """Ends an answer where the model without a chat template begins to write the person's next line."""

    def __init__(self) -> None:
        self.ended = False
        self._begun = False
        self._held = ""

    def add(self, text: str, *, last: bool) -> str:
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        at = text.find(_NEXT_LINE)
        if at >= 0:
            self.ended, self._held = True, ""
            return text[:at]
        held = 0 if last else max(n for n in range(len(_NEXT_LINE)) if text.endswith(_NEXT_LINE[:n]))
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


class _Draw(LogitsProcessor):
    """Draws the next token with a generator of its own, and leaves it as the only candidate.

    transformers draws from torch's global generator, which conversations at the same time would share.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.isnan().any():
            raise EvaluationError(Problem("nan-answer"))
        if self._temperature == 0:
            return scores
        likely, order = torch.sort(
            (scores[0].float().cpu() / self._temperature).softmax(-1), descending=True, stable=True
        )
        kept = likely.cumsum(-1) - likely < self._top_p
        chosen = order[torch.multinomial(likely * kept, 1, generator=self._generator)]
        only = torch.full_like(scores, -torch.inf)
        only[0, chosen.to(scores.device)] = 0
        return only


class _Stop(StoppingCriteria):
    def __init__(self, events: Sequence[threading.Event]) -> None:
        self._events = events

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        set_ = any(event.is_set() for event in self._events)
        return torch.full((len(input_ids),), set_, device=input_ids.device, dtype=torch.bool)


class _Outbox(BaseStreamer):
    def __init__(self, inbox: SimpleQueue[_Token | BaseException | None]) -> None:
        self._inbox = inbox
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self._inbox.put(_Token(int(value)))
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing to do: the thread reports its end itself, as it may also end by an error."""


def _generate(
    model: LanguageModel,
    tokens: Sequence[int],
    max_new_tokens: int,
    draw: _Draw,
    ends: bool,
    stops: Sequence[threading.Event],
    inbox: SimpleQueue[_Token | BaseException | None],
) -> None:
    outcome: BaseException | None = None
    try:
        if not any(event.is_set() for event in stops):
            settings = GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=max_new_tokens,
                min_new_tokens=None if ends else max_new_tokens,
                do_sample=False,
            )
            given = torch.tensor([tokens], device=model.device)
            with memory_named(model.name, "doing-answering"):
                model.network.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    generation_config=settings,
                    logits_processor=LogitsProcessorList([draw]),
                    stopping_criteria=StoppingCriteriaList([_Stop(stops)]),
                    streamer=_Outbox(inbox),
                )
    except BaseException as error:
        outcome = error
    inbox.put(outcome)


def chat_prompt(
    model: LanguageModel, conversation: Sequence[Mapping[str, str]], ending: Ending = "answer"
) -> str:
    """A conversation as the model's chat template writes it.

    Args:
        model: the model
        conversation: messages, each with a "role" and a "content"
        ending: what follows the last message

    Raises:
        EvaluationError: the template does not take it.
    """
    tokenizer = model.tokenizer
    try:
        return render(tokenizer.get_chat_template(), conversation, tokenizer.special_tokens_map, ending)
    except (TemplateError, ValueError) as error:  # ValueError: there are several, and none is the default
        values = {"model": model.name, "error": str(error)}
        raise EvaluationError(Problem("template-refuses", values)) from error


def _prompt_tokens(model: LanguageModel, messages: Sequence[Mapping[str, str]]) -> list[int]:
    if not messages:
        raise EvaluationError(Problem("empty-conversation"))
    for number, message in enumerate(messages, 1):
        if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            kind = type(message.get("content")).__name__
            values = {"number": number, "role": repr(message.get("role")), "kind": kind, "roles": _ROLES}
            raise EvaluationError(Problem("bad-message", values))
    conversation = [{"role": message["role"], "content": message["content"]} for message in messages]
    if model.has_chat_template:
        tokens = model.tokenizer(chat_prompt(model, conversation), add_special_tokens=False)["input_ids"]
    else:
        lines = [
            message["content"] + "\n"
            if message["role"] == "system"
            else f"{message['role'].title()}: {message['content']}"
            for message in conversation
        ]
        script = "\n".join([*lines, "Assistant:"])
        tokens = model.tokenizer(script, add_special_tokens=False)["input_ids"]
        if model.starts_with_bos:
            tokens = [model.tokenizer.bos_token_id, *tokens]
    tokens = [int(token) for token in tokens]
    model.check_tokens(tokens)
    return tokens

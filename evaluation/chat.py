"""Conversations with a model, streamed as text."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from queue import SimpleQueue

from checkpoints.chat_template import Ending, TemplateError, render
from checkpoints.problems import Problem
from evaluation.answering_model import AnsweringModel, GenerationSettings, Written
from evaluation.error import EvaluationError

_ROLES = ("system", "user", "assistant")
# How the user's next line begins in the script for a model without a chat template, which would go on to write it.
_NEXT_LINE = "\nUser:"


def reply(
    model: AnsweringModel,
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

    >>> "".join(reply(model, [{"role": "user", "content": "Hello"}], seed=1))  # doctest: +SKIP

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
    settings = GenerationSettings(min(max_new_tokens, room), temperature, top_p, seed, ends)
    return Reply(model, tokens, settings, stop or threading.Event())


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
        model: AnsweringModel,
        tokens: Sequence[int],
        settings: GenerationSettings,
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
        self._stop = stop
        self._script = _ScriptEnd() if settings.ends and not model.has_chat_template else None
        self._inbox: SimpleQueue[Written | BaseException | None] = SimpleQueue()
        # The thread knows the queue and the events but not this object, which can so be dropped while it
        # runs.
        self._thread = threading.Thread(
            target=_generate,
            args=(model, tokens, settings, (stop, self._closed), self._inbox),
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
            return self._shown("", last=True)
        if arrived.tokens:
            self.seconds = arrived.time - self._started
            self.seconds_to_first_token = self.seconds_to_first_token or self.seconds
            self.new_tokens += arrived.tokens
        if arrived.is_end:
            self.finish = "end"
        return self._shown(arrived.text, last=arrived.is_end)

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


def _generate(
    model: AnsweringModel,
    tokens: Sequence[int],
    settings: GenerationSettings,
    stops: Sequence[threading.Event],
    inbox: SimpleQueue[Written | BaseException | None],
) -> None:
    outcome: BaseException | None = None
    try:
        if not any(event.is_set() for event in stops):
            model.write(tokens, settings, stops, inbox.put)
    except BaseException as error:
        outcome = error
    inbox.put(outcome)


def chat_prompt(
    model: AnsweringModel, conversation: Sequence[Mapping[str, str]], ending: Ending = "answer"
) -> str:
    """A conversation as the model's chat template writes it.

    Args:
        model: the model
        conversation: messages, each with a "role" and a "content"
        ending: what follows the last message

    Raises:
        EvaluationError: the template does not take it.
    """
    try:
        return render(model.chat_template, conversation, model.special_tokens, ending)
    except (TemplateError, ValueError) as error:  # ValueError: there are several, and none is the default
        values = {"model": model.name, "error": str(error)}
        raise EvaluationError(Problem("template-refuses", values)) from error


def _prompt_tokens(model: AnsweringModel, messages: Sequence[Mapping[str, str]]) -> list[int]:
    if not messages:
        raise EvaluationError(Problem("empty-conversation"))
    for number, message in enumerate(messages, 1):
        if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            kind = type(message.get("content")).__name__
            values = {"number": number, "role": repr(message.get("role")), "kind": kind, "roles": _ROLES}
            raise EvaluationError(Problem("bad-message", values))
    conversation = [{"role": message["role"], "content": message["content"]} for message in messages]
    if model.has_chat_template:
        return model.tokens(chat_prompt(model, conversation))
    lines = [
        message["content"] + "\n"
        if message["role"] == "system"
        else f"{message['role'].title()}: {message['content']}"
        for message in conversation
    ]
    return model.tokens("\n".join([*lines, "Assistant:"]), begins=True)

"""How transformers generates an answer, a token at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from checkpoints.problems import Problem
from evaluation.answering_model import GenerationSettings, Written
from evaluation.error import EvaluationError, memory_named

if TYPE_CHECKING:
    from evaluation.model import LanguageModel


def generate(
    model: LanguageModel,
    tokens: Sequence[int],
    settings: GenerationSettings,
    stops: Sequence[threading.Event],
    put: Callable[[Written], None],
) -> None:
    """Continue a text. Arguments and errors as for `AnsweringModel.write`."""
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=None if settings.ends else settings.max_new_tokens,
        do_sample=False,
    )
    ends = set(model.network.generation_config.eos_token_id or []) if settings.ends else set()
    outbox = _Outbox(Decoder(model.tokenizer), ends, put)
    given = torch.tensor([tokens], device=model.device)
    with memory_named(model.name, "doing-answering"):
        model.network.generate(
            given,
            attention_mask=torch.ones_like(given),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Draw(settings)]),
            stopping_criteria=StoppingCriteriaList([_Stop(stops)]),
            streamer=outbox,
        )


class Decoder:
    """Text from tokens that come one at a time; a piece never ends inside a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Tokens before `_given` have been returned as text. Those from `_from` on are decoded together with the
        # new ones, since the text of a token (a leading space, a part of a character) depends on those before it.
        self._from = 0
        self._given = 0

    def add(self, token: int) -> str:
        """The text that a token completes."""
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


class _Draw(LogitsProcessor):
    """Draws the next token with a generator of its own, and leaves it as the only candidate.

    transformers draws from torch's global generator, which conversations at the same time would share.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        self._temperature = settings.temperature
        self._top_p = settings.top_p
        self._generator = torch.Generator().manual_seed(settings.seed)

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
    """Makes steps of an answer from tokens."""

    def __init__(self, decoder: Decoder, ends: set[int], put: Callable[[Written], None]) -> None:
        self._decoder = decoder
        self._ends = ends
        self._put = put
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            token = int(value)
            is_end = token in self._ends
            text = self._decoder.rest() if is_end else self._decoder.add(token)
            self._put(Written(text, is_end=is_end))
        self._prompt_seen = True

    def end(self) -> None:
        self._put(Written(self._decoder.rest(), tokens=0))

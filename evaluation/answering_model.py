"""What a model needs to answer in a conversation, whichever program runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class GenerationSettings:
    """How an answer is generated; see `evaluation.chat.reply`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    ends: bool


@dataclass(frozen=True)
class Written:
    """A step of an answer.

    Attributes:
        text: what the step completed; it never ends inside a character.
        tokens: how many tokens were written; 0 for text that was held back.
        is_end: whether the model ended its answer.
        time: by `time.perf_counter`.
    """

    text: str
    tokens: int = 1
    is_end: bool = False
    time: float = field(default_factory=time.perf_counter)


class LoadedModel(Protocol):
    """What the models in a device's memory have in common."""

    @property
    def name(self) -> str:
        """How people call it."""

    @property
    def commit(self) -> str | None:
        """The Hub's commit, None for a folder or file."""

    @property
    def bytes(self) -> int:
        """What its weights take."""


class AnsweringModel(LoadedModel, Protocol):
    """A model that answers. `LanguageModel` runs in transformers, `LlamaModel` in llama.cpp."""

    @property
    def device(self) -> str:
        """The device that it runs on: "cpu" or "cuda"."""

    @property
    def runs_as(self) -> str:
        """The number format of its weights, and the program if that is not transformers."""

    @property
    def context(self) -> int:
        """How many tokens it can read at once."""

    @property
    def has_chat_template(self) -> bool:
        """Whether it has its own chat template."""

    @property
    def chat_template(self) -> str:
        """Its chat template, in Jinja.

        Raises:
            ValueError: there are several, and none is the default.
        """

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """The tokens that its template may name: `bos_token`, `eos_token` and such."""

    def tokens(self, text: str, *, begins: bool = False) -> list[int]:
        """The tokens of a text, in which special tokens may occur.

        Args:
            text: the text
            begins: whether it is the beginning of a document, before which the tokenizer by default puts its BOS

        Raises:
            EvaluationError: tokenizer and weights do not match.
        """

    def write(
        self,
        tokens: Sequence[int],
        settings: GenerationSettings,
        stops: Sequence[threading.Event],
        put: Callable[[Written], None],
    ) -> None:
        """Continue a text, a token at a time.

        Args:
            tokens: the text so far
            settings: how to continue it
            stops: when one is set, the work ends within a token
            put: is given each step

        Raises:
            EvaluationError: it cannot.
        """

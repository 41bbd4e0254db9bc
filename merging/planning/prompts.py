"""Prompts as the tokens of a model: what routers are computed from."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from typing import Any

from checkpoints import Checkpoint, read_json
from checkpoints.architecture import Layout
from checkpoints.problems import CheckpointError, Problem
from checkpoints.typed_text import excess
from merging.experts.architectures import window
from merging.plan import Prompt
from merging.tokenizers.tokenizer import TOKENIZER, TOKENIZER_CONFIG

LONGEST = 2048  # tokens of one prompt
NEEDED = ("transformers", "tokenizers")


class PromptReader:
    """Splits texts into a model's tokens, as its tokenizer does, with what it puts before every text.

    Args:
        model: its name
        checkpoint: it, open
        layout: how it is built

    Raises:
        CheckpointError: it has no tokenizer that can be read, or a package is missing.
    """

    def __init__(self, model: str, checkpoint: Checkpoint, layout: Layout):
        self._model = model
        table = checkpoint.tensors.get(layout.embedding or "")
        self._rows = table.shape[0] if table else 0
        self._longest = min(LONGEST, window(checkpoint.config) or LONGEST)
        if not all(map(importlib.util.find_spec, NEEDED)):
            raise CheckpointError(Problem("no-gates", {}, self._model))
        if TOKENIZER not in checkpoint.files:
            raise CheckpointError(Problem("prompts-without-tokenizer", {"model": self._model}, self._model))
        self._tokenizer, self._first = self._read(checkpoint)

    def _read(self, checkpoint: Checkpoint) -> tuple[Any, int | None]:
        """The tokenizer, and the token that its settings put first."""
        from tokenizers import Tokenizer

        document = read_json(checkpoint, TOKENIZER)
        settings = read_json(checkpoint, TOKENIZER_CONFIG) if TOKENIZER_CONFIG in checkpoint.files else {}
        try:
            tokenizer = Tokenizer.from_str(json.dumps(document))
        except Exception as error:
            values = {"model": self._model, "file": TOKENIZER, "error": str(error)[:200]}
            raise CheckpointError(Problem("unreadable-tokenizer", values, self._model)) from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        first = settings.get("bos_token") if isinstance(settings, dict) else None
        first = first.get("content") if isinstance(first, dict) else first
        wanted = isinstance(settings, dict) and settings.get("add_bos_token") is True
        return tokenizer, tokenizer.token_to_id(first) if wanted and isinstance(first, str) else None

    def read(self, text: str) -> Prompt:
        """A prompt.

        Raises:
            CheckpointError: it has no tokens, or too many.
        """
        if problem := excess(text):
            raise CheckpointError(replace(problem, where=self._model))
        tokens = self._tokenizer.encode(text).ids
        if self._first is not None and tokens[:1] != [self._first]:
            tokens = [self._first, *tokens]
        if not 0 < len(tokens) <= self._longest:
            values = {"prompt": text[:40], "tokens": len(tokens), "most": self._longest}
            raise CheckpointError(Problem("prompt-length", values, self._model))
        if max(tokens) >= self._rows:
            values = {"model": self._model, "token": max(tokens), "rows": self._rows}
            raise CheckpointError(Problem("prompt-token", values, self._model))
        return Prompt(text, tuple(tokens))

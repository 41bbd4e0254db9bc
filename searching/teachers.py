"""What models predict on texts, kept in little memory: a merge that diverges little from it can do what they can.

Only the hidden states before the head are kept, and the head itself, so a vocabulary of any size costs no more, and the
model that made them can become another one.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evaluation import Cancelled, LanguageModel
from evaluation.error import memory_named
from evaluation.perplexity import Logits, ScoringPlan
from merging import Recipe
from searching.gradient import Passage, backward

_BITS = 1 / math.log(2)


class Teacher:
    """A model's predictions on the texts that were read to it.

    Args:
        model: may be changed when it is not being read to
    """

    def __init__(self, model: LanguageModel):
        head = copy.deepcopy(model.network.get_output_embeddings()) if Logits.of(model).plain_head else None
        self._head: Any = head.requires_grad_(False) if head is not None else None
        self._kept: dict[tuple[bytes, int], Tensor] = {}

    @torch.no_grad()
    def read(self, model: LanguageModel, texts: Sequence[str], cancel: threading.Event | None = None) -> None:
        """Keep what the model predicts on documents. It must be the same as before.

        Raises:
            EvaluationError: it does not run.
            Cancelled: `cancel` was set.
        """
        for _, ids, scored in _windows(_planned(model, texts, cancel), cancel):
            if _key(ids, scored) in self._kept:
                continue
            tokens = ids[None, :-1].to(model.device)
            with memory_named(model.name, "doing-scoring"):
                if self._head is None:
                    found = model.network(input_ids=tokens, use_cache=False).logits
                else:
                    found = model.network.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            self._kept[_key(ids, scored)] = found[0, -scored:].cpu()

    def predictions(self, ids: Tensor, scored: int) -> Callable[[slice], Tensor]:
        """The (m, vocabulary) float32 log-probabilities at any m of the last `scored` tokens of a text.

        Args:
            ids: (n + 1,) int64, of a text that was read
        """
        kept = self._kept[_key(ids, scored)]

        @torch.no_grad()
        def of(part: slice) -> Tensor:
            states = kept[part].to(ids.device)
            logits = states if self._head is None else self._head(states)
            return functional.log_softmax(logits.float(), dim=-1)

        return of


class Teachers:
    """Teachers by name, loaded when their predictions on a text are first needed, in each process.

    Args:
        recipes: of the models
    """

    def __init__(self, recipes: Mapping[str, Recipe] | None = None):
        self._recipes = recipes or {}
        self._made: dict[str, Teacher] = {}
        self._read: set[tuple[str, str]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return Teachers, (self._recipes,)

    def __getitem__(self, name: str) -> Teacher:
        return self._made[name]

    def read(self, live: Any, name: str, texts: Sequence[str], cancel: threading.Event | None = None) -> None:
        """Let a teacher read documents, if it has not yet; then the live merge is that teacher.

        Args:
            live: a merge of the teacher and others, see `searching.workers.LiveModel`

        Raises:
            EvaluationError: it does not run.
            MergeError: it cannot be read, or has other tensors than the merge.
            Cancelled: `cancel` was set.
        """
        missing = [text for text in texts if (name, text) not in self._read]
        if not missing:
            return
        live.update(self._recipes[name])
        if name not in self._made:
            self._made[name] = Teacher(live.model)
        self._made[name].read(live.model, missing, cancel)
        self._read |= {(name, text) for text in missing}


@torch.no_grad()
def divergence(
    model: LanguageModel, teacher: Teacher, texts: Sequence[str], cancel: threading.Event | None = None
) -> list[tuple[float, float]]:
    """The Kullback-Leibler divergence of a model's predictions from a teacher's, and the bytes, of each document.

    Args:
        texts: documents that were read to the teacher

    Returns:
        (bits, bytes) for each document of which anything is predicted.

    Raises:
        EvaluationError: the model does not run.
        Cancelled: `cancel` was set.
    """
    work = _planned(model, texts, cancel)
    nats = [0.0] * len(work.documents)
    how = Logits.of(model)
    for document, ids, scored in _windows(work, cancel):
        with memory_named(model.name, "doing-scoring"):
            [found] = backward(model, teacher, [Passage(ids.to(model.device), scored, 1.0)], how)
        nats[document] += found
    rows = [(nats[number] * _BITS, float(work.documents[number].bytes)) for number in work.order]
    return [row for row in rows if row[1]]


def _planned(model: LanguageModel, texts: Sequence[str], cancel: threading.Event | None) -> ScoringPlan:
    return ScoringPlan.planned(model, texts, None, None, None, None, cancel)


def _windows(work: ScoringPlan, cancel: threading.Event | None) -> Iterator[tuple[int, Tensor, int]]:
    """Each window: the number of its document, its (n + 1,) int64 tokens, and how many of the last ones are scored."""
    for window in chain.from_iterable(work.batches):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        yield window.document, work.tokens_of(window).long(), window.scored


def _key(ids: Tensor, scored: int) -> tuple[bytes, int]:
    return ids.cpu().numpy().tobytes(), scored

"""The loss of a student beside its teacher: how far its predictions and hidden states are from the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from evaluation import LanguageModel
from evaluation.influence import layer_stack
from evaluation.perplexity import Logits
from healing.losses import Head, divergence, states_apart, top_divergence
from healing.stored_teacher import StoredTeacher


@dataclass
class Distillation:
    """Imitates a teacher on given sequences.

    Args:
        student: that is trained
        teacher: runs beside it, or has stored its predictions for these sequences
        windows: (n, length) int64, sequences
        pairs: layers of the student, each with one of the teacher
        hidden_states: weight of these pairs in the loss; needs a teacher that runs
        temperature: both models' logits are divided by it
    """

    student: LanguageModel
    teacher: LanguageModel | StoredTeacher
    windows: Tensor
    pairs: Sequence[tuple[int, int]] = ()
    hidden_states: float = 0.0
    temperature: float = 1.0

    @property
    def count(self) -> int:
        """Of sequences."""
        return len(self.windows)

    def loss(self, chosen: Sequence[int]) -> Tensor:
        """Of the sequences with these numbers."""
        if isinstance(self.teacher, StoredTeacher):
            return self._from_stored(self.teacher, chosen)
        return self._beside(self.teacher, self.windows[list(chosen)])

    def _from_stored(self, teacher: StoredTeacher, chosen: Sequence[int]) -> Tensor:
        how = self._own_logits
        made, head = states(self.student, how, self.windows[list(chosen)])
        tokens, likely = (found.to(made.device) for found in teacher.read(chosen))
        return top_divergence(made, tokens, likely, head, temperature=self.temperature, at_once=how.at_once)

    def _beside(self, teacher: LanguageModel, ids: Tensor) -> Tensor:
        watched = self.pairs if self.hidden_states else ()
        own, other = self._own_logits, self._teachers_logits
        with torch.no_grad(), states_behind(teacher, [layer for _, layer in watched]) as theirs:
            taught, teacher_head = states(teacher, other, ids)
        with states_behind(self.student, [layer for layer, _ in watched]) as ours:
            made, student_head = states(self.student, own, ids)
        found = divergence(
            made, taught, student_head, teacher_head,
            temperature=self.temperature, at_once=min(own.at_once, other.at_once),
        )  # fmt: skip
        if not watched:
            return found
        pairs = [(ours[layer], theirs[source]) for layer, source in watched]
        return found + self.hidden_states * states_apart(*zip(*pairs, strict=True))

    @cached_property
    def _own_logits(self) -> Logits:
        return Logits.of(self.student)

    @cached_property
    def _teachers_logits(self) -> Logits:
        assert isinstance(self.teacher, LanguageModel)
        return Logits.of(self.teacher)


def states(model: LanguageModel, how: Logits, ids: Tensor) -> tuple[Tensor, Head]:
    """(tokens, width) states before the head of all sequences, and the head; or logits, if the model makes more of
    them than its head does."""
    ids = ids.to(model.device)
    if how.plain_head:
        states = model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states.flatten(0, 1), model.network.get_output_embeddings()
    logits = model.network(input_ids=ids, use_cache=False).logits
    return logits.flatten(0, 1), lambda made: made


@contextmanager
def states_behind(model: LanguageModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """The hidden states behind some layers, by layer, once the model has run."""
    found: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        if layers:
            stack = layer_stack(model)[1]
            for layer in layers:
                hooks.enter_context(stack[layer].register_forward_hook(partial(_keep, found, layer)))
        yield found


def _keep(found: dict[int, Tensor], layer: int, _: Any, arguments: Any, made: Any) -> None:
    found[layer] = made[0] if isinstance(made, tuple) else made

"""The steps of a training run. A run that was killed continues with the bits that it would have had.

The loop is a few lines of torch: a state is one file of tensors and numbers, written whole and then renamed, and no
pickle, as those of trainers are.
"""

from __future__ import annotations

import errno
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from checkpoints.problems import Problem
from evaluation import Cancelled, EvaluationError, LanguageModel
from evaluation.error import memory_named
from evaluation.influence import layer_stack
from evaluation.perplexity import Logits
from healing.data import batch
from healing.losses import Head, divergence, states_apart
from healing.settings import Arguments

STATE = "state.safetensors"
# The share of the highest learning rate that remains at the end.
_LEAST_RATE = 0.05


@dataclass(frozen=True)
class Step:
    """What is known after a step.

    Args:
        number: of steps that are done
        of: steps in all
        loss: of this step
    """

    number: int
    of: int
    loss: float


@dataclass
class Trainer:
    """A student under an adapter, and its teacher.

    Args:
        student: whose adapter is trained
        teacher: stays as it is
        pairs: layers of the student, each with one of the teacher
        hidden_states: weight of these pairs in the loss
        arguments: numbers
        key: of the run, see `HealPlan.key`
        state: the file that a run continues from
    """

    student: LanguageModel
    teacher: LanguageModel
    pairs: Sequence[tuple[int, int]]
    hidden_states: float
    arguments: Arguments
    key: str
    state: Path
    losses: list[float] = field(default_factory=list)

    def train(
        self,
        windows: Tensor,
        on_step: Callable[[Step], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Take all steps that are left.

        Args:
            windows: (n, length) int64, sequences to train on.
            on_step: called after each step.
            cancel: when set, the run ends after the current step.

        Raises:
            EvaluationError: the loss is not finite, memory or the disk is full, or the state is of another run.
            Cancelled: `cancel` was set.
        """
        given = self.arguments
        weights = trained(self.student.network)
        optimizer = torch.optim.AdamW(weights.values(), lr=given.learning_rate, weight_decay=0.0)
        self._resume(weights, optimizer)
        for number in range(len(self.losses), given.max_steps):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            optimizer.param_groups[0]["lr"] = learning_rate(given, number)
            ids = batch(windows, number, given.per_device_train_batch_size, given.seed)
            with memory_named(self.student.name, "doing-training"):
                loss = self.loss(ids)
                loss.backward()  # type: ignore[no-untyped-call]
            value = float(loss.detach())
            if not math.isfinite(value):
                values = {"step": number + 1, "rate": learning_rate(given, number)}
                raise EvaluationError(Problem("loss-not-finite", values))
            torch.nn.utils.clip_grad_norm_(weights.values(), given.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            self.losses.append(value)
            if (number + 1) % given.save_steps == 0 or number + 1 == given.max_steps:
                self._store(weights, optimizer)
            if on_step is not None:
                on_step(Step(number + 1, given.max_steps, value))

    def loss(self, ids: Tensor) -> Tensor:
        """Of a batch.

        Args:
            ids: (size, length) int64.
        """
        watched = self.pairs if self.hidden_states else ()
        own, other = self._logits
        with torch.no_grad(), states_behind(self.teacher, [layer for _, layer in watched]) as theirs:
            taught, teacher_head = _states(self.teacher, other, ids)
        with states_behind(self.student, [layer for layer, _ in watched]) as ours:
            made, student_head = _states(self.student, own, ids)
        found = divergence(
            made, taught, student_head, teacher_head,
            temperature=self.arguments.temperature, at_once=min(own.at_once, other.at_once),
        )  # fmt: skip
        if not watched:
            return found
        pairs = [(ours[layer], theirs[source]) for layer, source in watched]
        return found + self.hidden_states * states_apart(*zip(*pairs, strict=True))

    @cached_property
    def _logits(self) -> tuple[Logits, Logits]:
        return Logits.of(self.student), Logits.of(self.teacher)

    def _resume(self, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        if not self.state.exists():
            return
        with safe_open(self.state, "pt") as file:
            about = file.metadata() or {}
            if about.get("key") != self.key:
                raise EvaluationError(Problem("other-training", {"file": str(self.state)}))
            self.losses[:] = json.loads(about["losses"])
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(file.get_tensor(name))
                    optimizer.state[weight] = {
                        "step": torch.tensor(float(len(self.losses))),
                        **{key: file.get_tensor(f"{key}/{name}").to(weight.device) for key in _MOMENTS},
                    }

    def _store(self, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        tensors = {name: weight.detach() for name, weight in weights.items()}
        for name, weight in weights.items():
            tensors |= {f"{key}/{name}": optimizer.state[weight][key] for key in _MOMENTS}
        about = {"key": self.key, "losses": json.dumps(self.losses)}
        beside = half_written(self.state)
        with room_named(self.state.parent):
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, beside, about)
            beside.replace(self.state)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def half_written(state: Path) -> Path:
    """Where a state is written before it is renamed."""
    return state.with_suffix(".part")


@contextmanager
def room_named(folder: Path) -> Iterator[None]:
    """Turn a full disk into an `EvaluationError` that names the folder."""
    try:
        yield
    except Exception as error:  # safetensors has an exception of its own for it
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise EvaluationError(Problem("no-room-for-state", {"folder": str(folder)})) from error


def trained(network: Any) -> dict[str, Tensor]:
    """The weights that are trained, in the order of their names."""
    return {name: one for name, one in sorted(network.named_parameters()) if one.requires_grad}


def learning_rate(given: Arguments, step: int) -> float:
    """Of a step, from 0 on: up in a straight line over the warm-up, then down to a twentieth."""
    if step < given.warmup_steps:
        return given.learning_rate * (step + 1) / given.warmup_steps
    share = (step - given.warmup_steps) / max(given.max_steps - given.warmup_steps, 1)
    return given.learning_rate * (1 - (1 - _LEAST_RATE) * share)


def _states(model: LanguageModel, how: Logits, ids: Tensor) -> tuple[Tensor, Head]:
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

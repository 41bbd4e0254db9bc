"""The steps of a training run. A run that was killed continues with the bits that it would have had.

The loop is a few lines of torch: a state is one file of tensors and numbers, written whole and then renamed, and no
pickle, as those of trainers are.
"""

from __future__ import annotations

import errno
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from checkpoints.problems import Problem
from evaluation import Cancelled, EvaluationError
from evaluation.error import memory_named
from healing.data import places
from healing.settings import Arguments

STATE = "state.safetensors"
# The share of the highest learning rate that remains at the end.
_LEAST_RATE = 0.05


@dataclass(frozen=True)
class TrainingStep:
    """What is known after a step.

    Args:
        number: of steps that are done
        of: steps in all
        loss: of this step
    """

    number: int
    of: int
    loss: float


class TrainingObjective(Protocol):
    """What a training run makes small."""

    @property
    def count(self) -> int:
        """Of the sequences or rows it is computed from."""
        ...

    def loss(self, chosen: Sequence[int]) -> Tensor:
        """Of a step, from the sequences or rows with these numbers."""
        ...


@dataclass
class Trainer:
    """Takes steps.

    Args:
        name: of the model, for errors
        network: whose weights that need a gradient are trained
        objective: gives the loss of a step
        arguments: numbers
        key: of the run, see `HealPlan.key`
        state: where the run continues from
    """

    name: str
    network: Any
    objective: TrainingObjective
    arguments: Arguments
    key: str
    state: State
    losses: list[float] = field(default_factory=list)

    def train(
        self, on_step: Callable[[TrainingStep], None] | None = None, cancel: threading.Event | None = None
    ) -> None:
        """Take all steps that are left.

        Args:
            on_step: called after each step.
            cancel: when set, the run ends after the current step.

        Raises:
            EvaluationError: the loss is not finite, or the state is another run's or cannot be stored.
            Cancelled: `cancel` was set.
        """
        given = self.arguments
        weights = trained(self.network)
        optimizer = torch.optim.AdamW(weights.values(), lr=given.learning_rate, weight_decay=0.0)
        self._resume(weights, optimizer)
        for number in range(len(self.losses), given.max_steps):
            if cancel is not None and cancel.is_set():
                raise Cancelled
            optimizer.param_groups[0]["lr"] = learning_rate(given, number)
            chosen = places(self.objective.count, number, given.per_device_train_batch_size, given.seed)
            with memory_named(self.name, "doing-training"):
                loss = self.objective.loss(chosen)
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
                on_step(TrainingStep(number + 1, given.max_steps, value))

    def _resume(self, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        path = self.state.fetched()
        if path is None:
            return
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("key") != self.key:
                raise EvaluationError(Problem("other-training", {"file": str(path)}))
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
        write_whole(self.state.path, tensors, about)
        self.state.stored()


@dataclass
class State:
    """The file that a run continues from.

    Args:
        path: in the work folder
    """

    path: Path

    def fetched(self) -> Path | None:
        """Where it is; None before the first was stored."""
        return self.path if self.path.exists() else None

    def stored(self) -> None:
        """Called when there is a new one."""


def write_whole(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    """Write tensors beside a file, and rename it when it is whole.

    Raises:
        EvaluationError: the disk is full.
    """
    beside = half_written(path)
    with room_named(path.parent):
        try:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, beside, about)
        except Exception:
            beside.unlink(missing_ok=True)  # it would take the room that a next attempt needs
            raise
        beside.replace(path)


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

"""Which expert each prompt would reach: what a router does with the states of the base model, before anything is made.

The routers of a result see the states of the result, which are near the base's where its experts are fine-tunes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint
from checkpoints.problems import Problem
from checkpoints.wording import few
from merging.experts.gates import Check, LayerRows, cheap_rows, prompts_of, rows_of, states
from merging.plan import Gates, Prompt

if TYPE_CHECKING:
    from torch import Tensor

# States that point so nearly the same way are hard to tell apart.
ALIKE = 0.99
# The least that the right expert should get, as a multiple of what chance gives it.
LEAST_GAIN = 1.15
SHOWN = 40  # characters of a prompt in a sentence


@dataclass(frozen=True)
class RoutedPrompt:
    """Where the tokens of a prompt go, but for its first one.

    Args:
        text: it
        expert: that it is a positive prompt of; None for one that is only tried
        weights: what each expert gets of the tokens, on average over tokens and layers; they add up to 1
        first: for each expert the share of tokens and layers in which it gets the most
    """

    text: str
    expert: int | None
    weights: tuple[float, ...]
    first: tuple[float, ...]

    @property
    def reached(self) -> int:
        """The expert that gets the most."""
        return max(range(len(self.weights)), key=lambda number: self.weights[number])


@dataclass(frozen=True)
class Pair:
    """Two experts, and how alike the states of their prompts are.

    Args:
        cosine: between what their rows are made of, on average over layers
        layers: in how many of them it is more than ALIKE
    """

    first: int
    second: int
    cosine: float
    layers: int


@dataclass(frozen=True)
class Routing:
    """What the routers of a mixture do.

    Args:
        experts: names of the models
        prompts: the experts' own positive prompts, and those that are only tried
        pairs: of experts
        layers: how many
    """

    experts: tuple[str, ...]
    prompts: tuple[RoutedPrompt, ...]
    pairs: tuple[Pair, ...]
    layers: int

    @property
    def right_weight(self) -> float:
        """What the experts get of their own prompts, on average."""
        own = [prompt.weights[prompt.expert] for prompt in self.prompts if prompt.expert is not None]
        return sum(own) / max(len(own), 1)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What makes the routers useless."""
        found = []
        for pair in self.pairs:
            if pair.cosine > ALIKE:
                values: dict[str, Any] = {
                    "first": self.experts[pair.first],
                    "second": self.experts[pair.second],
                    "cosine": pair.cosine,
                    "layers": pair.layers,
                    "total": self.layers,
                }
                found.append(Problem("gates-alike", values))
        own = [prompt for prompt in self.prompts if prompt.expert is not None]
        if lost := [prompt.text[:SHOWN] for prompt in own if prompt.reached != prompt.expert]:
            values = {"count": len(lost), "total": len(own), "prompts": few(lost)}
            found.append(Problem("prompts-elsewhere", values))
        chance = 1 / len(self.experts)
        if len(self.experts) > 1 and self.right_weight < LEAST_GAIN * chance:
            found.append(Problem("gates-weak", {"weight": self.right_weight, "chance": chance}))
        return tuple(found)


def route(gates: Gates, base: Checkpoint, tried: Sequence[Prompt], check: Check) -> Routing:
    """Find out where prompts go.

    Args:
        gates: of a plan
        base: the model whose states count
        tried: prompts of no expert
        check: called between steps; raises to stop

    Raises:
        CheckpointError: the base cannot be read.
    """
    experts = [expert for expert in gates.experts if not expert.is_shared]
    own = [(prompt, number) for number, expert in enumerate(experts) for prompt in expert.positive]
    shown: list[tuple[Prompt, int | None]] = [*own, *((prompt, None) for prompt in tried)]
    of_gates = prompts_of(gates.experts)
    everything = list(dict.fromkeys([*of_gates, *tried]))
    places = [everything.index(prompt) for prompt, _ in shown]
    cheap = cheap_rows(gates, base) if gates.mode == "cheap_embed" else None
    sums = [_Sums(len(experts)) for _ in shown]
    pairs = [Pair(i, j, 0.0, 0) for i in range(len(experts)) for j in range(i + 1, len(experts))]
    for found in states(base, everything, check):
        mine = replace(found, entering=found.entering[: len(of_gates)], inputs=found.inputs[: len(of_gates)])
        rows = cheap or rows_of(gates, of_gates, mine)
        for total, place in zip(sums, places, strict=True):
            total.add(found.inputs[place], rows.rows)
        pairs = [_with_layer(pair, rows) for pair in pairs]
    return Routing(
        tuple(expert.name for expert in experts),
        tuple(total.prompt(p.text, e) for total, (p, e) in zip(sums, shown, strict=True)),
        tuple(replace(pair, cosine=pair.cosine / gates.layers) for pair in pairs),
        gates.layers,
    )


def _with_layer(pair: Pair, rows: LayerRows) -> Pair:
    """A pair with the sum of its cosines, after one more layer."""
    import torch

    one, other = rows.means[pair.first], rows.means[pair.second]
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    return replace(pair, cosine=pair.cosine + cosine, layers=pair.layers + (cosine > ALIKE))


class _Sums:
    """Adds up what experts get of a prompt's tokens."""

    def __init__(self, experts: int):
        self._weights = [0.0] * experts
        self._first = [0.0] * experts
        self._count = 0

    def add(self, inputs: Tensor, rows: Tensor) -> None:
        """Add a layer: what its router is given, (tokens, hidden), and its rows."""
        tokens = inputs[1:] if len(inputs) > 1 else inputs
        weights = (tokens @ rows.T).softmax(dim=1)
        best = weights.argmax(dim=1)
        for expert in range(len(self._weights)):
            self._weights[expert] += weights[:, expert].sum().item()
            self._first[expert] += float((best == expert).sum())
        self._count += len(tokens)

    def prompt(self, text: str, expert: int | None) -> RoutedPrompt:
        weights = tuple(weight / self._count for weight in self._weights)
        return RoutedPrompt(text, expert, weights, tuple(first / self._count for first in self._first))

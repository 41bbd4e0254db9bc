"""How alike two models see a text, layer by layer: linear CKA of their hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from checkpoints.problems import Problem
from evaluation.error import EvaluationError, memory_named
from evaluation.model import LanguageModel

# Below, chance alone makes two sets of states look alike.
_FEWEST_POSITIONS = 32


@dataclass(frozen=True)
class LinearCka:
    """Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) of two models' hidden states on one text.

    1 for states that are equal up to rotation and one factor, near 0 for states that have nothing in common. It
    says how alike, not how good.

    Attributes:
        model: the model that is looked at.
        other: what it is held against.
        positions: places in the text that were compared, where a token ends for both.
        cka: a row for each of the model's layers, a column for each of the other's; first the embedding's output, last
            the output of the final norm.
    """

    model: str
    other: str
    positions: int
    cka: tuple[tuple[float, ...], ...]

    @property
    def by_layer(self) -> tuple[float, ...]:
        """Each layer against the same one of the other, as far as both go."""
        return tuple(row[number] for number, row in enumerate(self.cka) if number < len(row))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "by_layer": self.by_layer}


def linear_cka(model: LanguageModel, other: LanguageModel, text: str, *, tokens: int = 512) -> LinearCka:
    """Run two models on the start of a text and compare the states of every layer with every layer.

    Models with different tokenizers are compared where a token ends for both. A state depends on the text before
    it alone, so no setting but the text's length matters.

    Args:
        model: the model.
        other: what it is held against.
        text: the text.
        tokens: up to this many of its tokens are read.

    Raises:
        EvaluationError: the text is too short, a tokenizer does not tell its tokens' places, or the states hold NaN.
    """
    (ends, grams), (other_ends, other_grams) = (_states(one, text, tokens) for one in (model, other))
    shared, ours, theirs = np.intersect1d(ends, other_ends, return_indices=True)
    if len(shared) < _FEWEST_POSITIONS:
        values = {"model": model.name, "other": other.name, "count": len(shared), "least": _FEWEST_POSITIONS}
        raise EvaluationError(Problem("few-positions", values))
    one, two = _centred(grams, ours), _centred(other_grams, theirs)
    cka = one @ two.T
    if not bool(cka.isfinite().all()):
        raise EvaluationError(Problem("nan-states", {"model": model.name, "other": other.name}))
    return LinearCka(
        model.name, other.name, len(shared), tuple(tuple(map(float, row)) for row in cka.clamp(0, 1))
    )


@torch.inference_mode()
def _states(model: LanguageModel, text: str, tokens: int) -> tuple[Any, Sequence[torch.Tensor]]:
    """Where tokens end, and each layer's states (tokens, width), on the CPU in float32."""
    if not model.tokenizer.is_fast:
        raise EvaluationError(Problem("no-token-offsets", {"model": model.name}))
    read = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = read["input_ids"][: min(tokens, model.context)]
    if not ids:
        raise EvaluationError(Problem("empty-text"))
    model.check_tokens(ids)
    ends = [end for _, end in read["offset_mapping"][: len(ids)]]
    # Of the tokens that share a character the last has seen all of it.
    last = [number for number, end in enumerate(ends) if number + 1 == len(ends) or ends[number + 1] > end]
    with memory_named(model.name, "doing-reading"):
        made = model.network(
            input_ids=torch.tensor([ids], device=model.device), use_cache=False, output_hidden_states=True
        )
    return np.array([ends[number] for number in last]), [
        layer[0, last].float().cpu() for layer in made.hidden_states
    ]


def _centred(states: Sequence[torch.Tensor], positions: Any) -> torch.Tensor:
    """(layers, positions squared): each layer's Gram matrix, centred and of length 1."""
    rows = []
    for layer in states:
        kept = layer[torch.from_numpy(positions)]
        kept = kept - kept.mean(0)
        gram = (kept @ kept.T).flatten()
        rows.append(gram / gram.norm())
    return torch.stack(rows)

"""Whether a model prefers the better of two answers, before and after it was trained to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from evaluation import Cancelled, LanguageModel
from evaluation.bootstrap import paired_bootstrap
from healing.data import Row

# Pairs of answers without which there is no interval.
_FEWEST = 5


@dataclass(frozen=True)
class Preferred:
    """Two models on the same pairs of answers.

    Attributes:
        pairs: of answers.
        before, after: shares of the pairs whose chosen answer is likelier than the rejected one.
        gain: mean of what the log-probability of the chosen answer minus that of the rejected one grew by, in nats.
        interval: its 95 % interval; None for fewer than five pairs.
    """

    pairs: int
    before: float
    after: float
    gain: float
    interval: tuple[float, float] | None

    @property
    def is_better(self) -> bool:
        """Whether the whole interval says so."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def words(self) -> str:
        """In a sentence, for the card."""
        between = (
            f" (95 % interval {self.interval[0]:.2f} to {self.interval[1]:.2f})" if self.interval else ""
        )
        return (
            f"Of {self.pairs} pairs of answers that were held out, the chosen one is likelier in {self.before:.0%} "
            f"before and {self.after:.0%} after; the margin grew by {self.gain:.2f} nats{between}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def preferred(before: Sequence[float], after: Sequence[float]) -> Preferred:
    """Compare the margins of two models on the same pairs."""
    enough = len(after) >= _FEWEST
    interval = paired_bootstrap(lambda found: float(np.mean(found)), after, before) if enough else None
    shares = [float(np.mean(np.asarray(one) > 0)) for one in (before, after)]
    gain = float(np.mean(after) - np.mean(before))
    return Preferred(len(after), shares[0], shares[1], gain, interval)


@torch.inference_mode()
def margins(
    model: LanguageModel, pairs: Sequence[Row], length: int, cancel: threading.Event | None = None
) -> list[float]:
    """The log-probability of the chosen answer minus that of the rejected one, in nats, of each pair.

    Args:
        model: that is asked.
        pairs: rows with `chosen`, `rejected` and, unless these begin with it, `prompt`.
        length: tokens of a prompt with its answer that are read.
        cancel: when set, the work ends.

    Raises:
        Cancelled: `cancel` was set.
    """
    found = []
    for pair in pairs:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        chosen, rejected = (_likelihood(model, pair, column, length) for column in ("chosen", "rejected"))
        found.append(chosen - rejected)
    return found


def _likelihood(model: LanguageModel, pair: Row, column: str, length: int) -> float:
    """Log-probability of an answer behind its prompt."""
    prompt, whole = _texts(model, pair.get("prompt", ""), pair[column])
    before = model.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    ids = model.tokenizer(whole, add_special_tokens=False)["input_ids"][:length]
    start = max(len(before), 1)
    if start >= len(ids):
        return 0.0
    logits = model.network(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    likely = torch.log_softmax(logits[start - 1 : -1].float(), dim=-1)
    wanted = torch.tensor(ids[start:], device=model.device)
    return float(likely.gather(-1, wanted[:, None]).sum())


def _texts(model: LanguageModel, prompt: Any, answer: Any) -> tuple[str, str]:
    """A prompt, and the prompt with its answer, as the model reads them."""
    if isinstance(answer, str):
        return prompt, prompt + answer
    turns = list(prompt or ())
    template = model.tokenizer.apply_chat_template
    begun = template(turns, tokenize=False, add_generation_prompt=True) if turns else ""
    return begun, template([*turns, *answer], tokenize=False)

"""How far a training is, and what it came to, as its visitor may see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluation.remark import Remark
from merging import Result


@dataclass(frozen=True)
class HealState:
    """A training at one moment.

    Args:
        phase: "start", "training" or "judged"
        steps: that there will be
        losses: of the steps that were taken
        seconds_left: an estimate; None before the second step
        healed: whether the result is better than before; None before the end
        scores: name, perplexity and bits per byte of the model before and after, and of its teacher
        remarks: the differences, with their intervals
        result: where the model is; None where it did not heal, and before the end
    """

    phase: str = "start"
    steps: int = 0
    losses: tuple[float, ...] = ()
    seconds_left: float | None = None
    healed: bool | None = None
    scores: tuple[tuple[str, float, float], ...] = ()
    remarks: tuple[Remark, ...] = ()
    result: Result | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        scores = {name: {"perplexity": one, "bits_per_byte": bits} for name, one, bits in self.scores}
        return {
            "phase": self.phase,
            "steps": self.steps,
            "losses": self.losses,
            "healed": self.healed,
            "scores": scores,
            "words": [str(remark) for remark in self.remarks],
        }
